# subprocess and multiprocessing by fork and by spawn.
import multiprocessing as mp, os, signal, subprocess, sys

def square(x):
    return x * x
def child(q, conn):
    q.put(sum(range(1000)))
    conn.send({"from": "child"})
    conn.close()

if __name__ == "__main__":
    print(subprocess.run(["sh", "-c", "cat; echo err >&2; exit 3"], input=b"in", capture_output=True))
    print(subprocess.check_output([sys.executable, "-c", "import sys; print(len(sys.argv))", "a", "b"]))
    p = subprocess.Popen(["sleep", "100"])
    p.terminate()
    print(p.wait())
    a = subprocess.Popen(["seq", "100000"], stdout=subprocess.PIPE)
    b = subprocess.Popen(["tail", "-1"], stdin=a.stdout, stdout=subprocess.PIPE)
    a.stdout.close()
    print(b.communicate()[0], a.wait())
    try:
        subprocess.run(["sleep", "100"], timeout=0.1)
    except subprocess.TimeoutExpired as e:
        print("timeout", e.cmd)
    try:
        subprocess.run(["/nonexistent/program"])
    except FileNotFoundError as e:
        print(e)
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    for method in ("fork", "spawn"):
        ctx = mp.get_context(method)
        with ctx.Pool(3) as pool:
            print(method, sum(pool.map(square, range(100))))
        q, (here, there) = ctx.Queue(), ctx.Pipe()
        p = ctx.Process(target=child, args=(q, there))
        p.start()
        print(q.get(), here.recv())
        p.join()
        print(p.exitcode)
    r, w = os.pipe()
    pid = os.posix_spawn("/bin/echo", ["echo", "spawned"], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, w, 1)])
    os.waitpid(pid, 0)
    print(os.read(r, 100))
