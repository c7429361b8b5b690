import ctypes, sqlite3

db = sqlite3.connect("test.db")
db.execute("create table t (id integer primary key, name text, value real)")
with db:
    db.executemany("insert into t (name, value) values (?, ?)", ((f"name{i % 97}", i * 0.5) for i in range(20000)))
db.execute("create index byname on t (name)")
print(db.execute("select count(*), sum(value), max(name) from t").fetchone())
print(db.execute("select name, count(*), avg(value) from t group by name order by 2 desc, 1 limit 3").fetchall())
db.create_function("twice", 1, lambda x: x * 2)
print(db.execute("select twice(value) from t where name = 'name5' order by id limit 2").fetchall())
try:
    with db:
        db.execute("delete from t")
        raise ValueError("roll back")
except ValueError:
    pass
print(db.execute("select count(*) from t").fetchone())
db.close()

# Callbacks from C into Python: code that libffi makes.
libc = ctypes.CDLL(None)
values = (ctypes.c_int * 6)(5, 2, 9, 1, 7, 3)
Compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
libc.qsort(values, 6, ctypes.sizeof(ctypes.c_int), Compare(lambda a, b: a[0] - b[0]))
print(list(values), libc.strlen(b"hello"))
