-- Loops that the JIT compiles, FFI, coroutines, side exits.
local jit = require("jit")
assert(jit.status(), "the JIT is off")
local function collatz(n) local c = 0 while n ~= 1 do if n % 2 == 0 then n = n / 2 else n = 3 * n + 1 end c = c + 1 end return c end
local best, at = 0, 0
for i = 1, 60000 do local c = collatz(i) if c > best then best, at = c, i end end
print(best, at)
local N, sieve = 300000, {}
for i = 2, N do sieve[i] = true end
for i = 2, math.sqrt(N) do if sieve[i] then for j = i * i, N, i do sieve[j] = false end end end
local count = 0 for i = 2, N do if sieve[i] then count = count + 1 end end
print(count)
local t = {} for i = 1, 20000 do t[i] = (i * 7919) % 20011 end
table.sort(t) print(t[1], t[10000], t[20000])
local co = coroutine.wrap(function() for i = 1, 1000 do coroutine.yield(i) end end)
local s = 0 for i = 1, 1000 do s = s + co() end print(s)
local parts = {} for i = 1, 5000 do parts[#parts + 1] = string.format("%d:%s", i, ("x"):rep(i % 5)) end
print(#table.concat(parts), (table.concat(parts):gsub("x+", "y")):len())
print(pcall(function() local x = nil; return x.y end))
local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end
print(fib(27))
local ffi = require("ffi")
ffi.cdef [[ int abs(int); typedef struct { double x, y; } pt; void qsort(void *, size_t, size_t, int (*)(const int *, const int *)); ]]
local a = ffi.new("pt[1000]") for i = 0, 999 do a[i].x = i; a[i].y = i * 2 end
local sum = 0 for k = 1, 100 do for i = 0, 999 do sum = sum + a[i].x * a[i].y end end print(sum, ffi.C.abs(-5))
local v = ffi.new("int[5]", 5, 3, 9, 1, 7)
local cb = ffi.cast("int (*)(const int *, const int *)", function(x, y) return x[0] - y[0] end)
ffi.C.qsort(v, 5, 4, cb) print(v[0], v[1], v[2], v[3], v[4])
