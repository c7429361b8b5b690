module xvrun

go 1.26
