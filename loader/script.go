//go:build !plan9

package loader

import "bytes"

const (
	// headSize is BINPRM_BUF_SIZE: the part of a file that decides its format.
	headSize = 256

	// maxScripts is how many #! files can follow each other (exec_binprm).
	maxScripts = 5
)

// parseScript splits a #! line exactly as load_script (fs/binfmt_script.c)
// does: one interpreter and at most one argument. head is the start of the
// file, padded with zeros to headSize bytes. ok is false where the kernel
// answers ENOEXEC.
func parseScript(head *[headSize]byte) (interp, arg string, ok bool) {
	if head[0] != '#' || head[1] != '!' {
		return "", "", false
	}
	line := head[2:]
	if end := bytes.IndexAny(line, "\n\x00"); end >= 0 && line[end] == '\n' {
		line = bytes.TrimRight(line[:end], " \t")
		line = bytes.TrimLeft(line, " \t")
	} else {
		// Without a newline the name may have been cut off; it has not if
		// something ends it inside of the buffer.
		line = bytes.TrimLeft(line[:headSize-3], " \t")
		if !bytes.ContainsAny(line, " \t\x00") {
			return "", "", false
		}
	}
	name := line
	if sep := bytes.IndexAny(line, " \t\x00"); sep >= 0 {
		name = line[:sep]
		if line[sep] != 0 {
			arg = cString(bytes.TrimLeft(line[sep:], " \t"))
		}
	}
	return string(name), arg, len(name) > 0
}

// looksLikeText tells a text file from a binary one for the sake of a message.
func looksLikeText(head []byte) bool {
	for _, c := range head {
		if c < ' ' && c != '\n' && c != '\t' && c != '\r' && c != '\f' && c != 0x1b {
			return false
		}
	}
	return len(head) > 0
}
