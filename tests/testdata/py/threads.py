# threading, queues, locks, signals, timers, asyncio.
import asyncio, concurrent.futures, hashlib, os, queue, signal, socket, threading, time

q, done = queue.Queue(), queue.Queue()
def worker():
    while (n := q.get()) is not None:
        done.put((n, hashlib.sha256(b"%d" % n * 1000).hexdigest()))
threads = [threading.Thread(target=worker) for _ in range(8)]
for t in threads: t.start()
for i in range(200): q.put(i)
for t in threads: q.put(None)
for t in threads: t.join()
results = sorted(done.queue)
print(len(results), results[17][1][:16])

lock, total = threading.Lock(), 0
def add():
    global total
    for _ in range(2000):
        with lock: total += 1
ts = [threading.Thread(target=add) for _ in range(10)]
for t in ts: t.start()
for t in ts: t.join()
print(total)
local = threading.local()
with concurrent.futures.ThreadPoolExecutor(5) as ex:
    print(sum(ex.map(lambda n: n * n, range(1000))))
got = []
signal.signal(signal.SIGUSR1, lambda s, f: got.append(s))
for _ in range(10):
    os.kill(os.getpid(), signal.SIGUSR1)
signal.signal(signal.SIGALRM, lambda s, f: got.append(s))
signal.setitimer(signal.ITIMER_REAL, 0.05)
n = 0
while signal.SIGALRM not in got: n += 1
print(len(got), got[-1] == signal.SIGALRM)

async def echo(reader, writer):
    writer.write((await reader.readline()).upper())
    writer.close()
async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async def client(i):
        r, w = await asyncio.open_connection("127.0.0.1", port)
        w.write(b"hello %d\n" % i)
        line = await r.readline()
        w.close()
        return line
    print(sorted(await asyncio.gather(*(client(i) for i in range(20))))[:2])
    server.close()
asyncio.run(main())
e = threading.Event()
threading.Timer(0.05, e.set).start()
print(e.wait(20))
