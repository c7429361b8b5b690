# json, re, hashlib, big integers, floats, generators, exceptions, compression.
import collections, datetime, decimal, fractions, functools, hashlib, heapq, itertools, json, math, os
import random, re, struct, sys, tempfile, traceback, zlib

data = {"n": list(range(50)), "s": "héllo", "nested": {"a": [1.5, None, True]}}
text = json.dumps(data, sort_keys=True)
assert json.loads(text) == data
print(len(text), hashlib.sha256(text.encode()).hexdigest())
for name in ("md5", "sha1", "sha512", "blake2b", "sha3_256"):
    print(name, hashlib.new(name, b"x" * 100000).hexdigest()[:32])
words = re.findall(r"\b(\w)(\w*)\b", "the quick brown fox jumps over the lazy dog" * 200)
print(len(words), re.sub(r"(a+)b", r"<\1>", "aaab ab b"), bool(re.match(r"^(a|b)*c$", "abab" * 500 + "c")))
print(math.factorial(200) % 10**20, pow(3, 10**5, 10**9 + 7), 2**521 - 1 > 0)
print(sum(i * i for i in range(300000)), functools.reduce(lambda a, b: a ^ b, range(10000)))
print(decimal.Decimal(2).sqrt(), fractions.Fraction(1, 3) + fractions.Fraction(1, 6), math.fsum([0.1] * 10))
rng = random.Random(42)
print([rng.randrange(1000) for _ in range(5)], rng.random(), rng.gauss(0, 1))
blob = bytes(rng.randrange(256) for _ in range(50000))
assert zlib.decompress(zlib.compress(blob * 3)) == blob * 3
print(zlib.crc32(blob), struct.pack(">Qd", 7, 1.5).hex())

def deep(n):
    return 0 if n == 0 else 1 + deep(n - 1)

try:
    deep(10**6)
except RecursionError as e:
    print("recursion", type(e).__name__)
try:
    {}["missing"]
except KeyError:
    print(traceback.format_exc().splitlines()[-1])
print(datetime.date(2024, 2, 29) + datetime.timedelta(days=366))
print(collections.Counter("mississippi").most_common(2), heapq.nsmallest(3, [5, 1, 4]))
print(list(itertools.islice(itertools.permutations(range(6)), 700, 702)))

class Node:
    def __init__(self):
        self.me = self
nodes = [Node() for _ in range(100000)]
del nodes
with open("out.txt", "w") as f:
    f.write(text)
print(os.path.getsize("out.txt"), sys.argv[1:], sys.stdin.read().upper())
sys.stderr.write("to stderr\n")
sys.exit(9)
