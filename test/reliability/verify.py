"""
Many processes work at once, each on files of its own in directories that all share, and verify every byte: what
they read on the way, and at the end each file as a whole, once more after the kernel's pages were dropped.

  verify.py work DIRECTORY ACCOUNT SECONDS PROCESSES SEED   works; writes ACCOUNT.N for each process N
  verify.py look DIRECTORY ACCOUNT PROCESSES                compares what is there with the accounts, and nothing else
                                                            may be there

Prints what was done as JSON. Ends with 1 where a byte is wrong, and says which.
"""
import hashlib
import json
import mmap
import os
import random
import sys
import time

DIRECTORIES = ["d%d" % i for i in range(8)]
MOST_FILES = 8
MOST_BYTES = 600_000  # of one file, so that 32 processes keep no more than 150 MB in memory
TEXT = b"The quick brown fox jumps over the lazy dog, and then does it again.\n" * 4000


class Wrong(Exception):
    pass


class Worker:
    def __init__(self, me, seed):
        self.me = me
        self.rng = random.Random(seed * 1000 + me)
        self.files = {}  # path -> bytearray, as it must be
        self.serial = 0
        self.ops = 0
        self.verified = 0

    def new_path(self):
        self.serial += 1
        return "%s/p%d-%d" % (self.rng.choice(DIRECTORIES), self.me, self.serial)

    def some(self):
        return self.rng.choice(list(self.files))

    def data(self, length):
        """Half of it compresses, half does not."""
        if self.rng.random() < 0.5:
            return self.rng.randbytes(length)
        at = self.rng.randrange(1000)
        return (TEXT[at:] * (length // len(TEXT) + 2))[:length]

    def length(self):
        return self.rng.choice([1, 100, 4096, 5000, 65536, 70000, 131072])

    def compare(self, path, at, got):
        wanted = self.files[path][at:at + len(got)]
        self.verified += len(got)
        if got == wanted:
            return
        first = next(i for i in range(len(got)) if i >= len(wanted) or got[i] != wanted[i])
        raise Wrong("%s: byte %d is wrong, after %d operations of process %d" % (path, at + first, self.ops, self.me))

    def verify(self, path, cold):
        """Every byte, and that there are no more."""
        model = self.files[path]
        fd = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            if size != len(model):
                raise Wrong("%s: has %d bytes, not %d, after %d operations" % (path, size, len(model), self.ops))
            if cold:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            at = 0
            while at < size:
                got = os.pread(fd, 131072, at)
                if not got:
                    raise Wrong("%s: ends at %d instead of %d" % (path, at, size))
                self.compare(path, at, got)
                at += len(got)
        finally:
            os.close(fd)

    def write(self, path, at, data):
        fd = os.open(path, os.O_RDWR)
        try:
            done = os.pwrite(fd, data, at)
            if done != len(data):
                raise Wrong("%s: wrote %d of %d bytes" % (path, done, len(data)))
            self.put(path, at, data)
            if self.rng.random() < 0.1:
                os.fsync(fd)
            if self.rng.random() < 0.3:
                self.compare(path, at, os.pread(fd, len(data), at))
        finally:
            os.close(fd)

    def put(self, path, at, data):
        model = self.files[path]
        if len(model) < at:
            model.extend(bytes(at - len(model)))
        model[at:at + len(data)] = data

    # One operation each.

    def create(self):
        if len(self.files) >= MOST_FILES:
            return self.unlink()
        path = self.new_path()
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        self.files[path] = bytearray()
        self.write(path, 0, self.data(self.length()))

    def overwrite(self):
        path = self.some()
        self.write(path, self.rng.randrange(len(self.files[path]) + 1), self.data(self.length()))
        self.trim(path)

    def append(self):
        path = self.some()
        data = self.data(self.length())
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, data)
        os.close(fd)
        self.files[path] += data
        self.trim(path)

    def trim(self, path):
        if len(self.files[path]) > MOST_BYTES:
            self.truncate(path)

    def truncate(self, path=None):
        path = path or self.some()
        size = self.rng.randrange(MOST_BYTES // 2)
        os.truncate(path, size)
        model = self.files[path]
        del model[size:]
        model.extend(bytes(size - len(model)))

    def read(self):
        path = self.some()
        at = self.rng.randrange(len(self.files[path]) + 1)
        fd = os.open(path, os.O_RDONLY)
        if self.rng.random() < 0.5:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        wanted = min(self.length(), len(self.files[path]) - at)
        got = os.pread(fd, wanted, at)
        os.close(fd)
        if len(got) != wanted:
            raise Wrong("%s: %d bytes at %d, not %d" % (path, len(got), at, wanted))
        self.compare(path, at, got)

    def store(self):
        """Through a shared mapping."""
        path = self.some()
        size = len(self.files[path])
        if size == 0:
            return
        at = self.rng.randrange(size)
        data = self.data(min(self.length(), size - at))
        fd = os.open(path, os.O_RDWR)
        with mmap.mmap(fd, size) as mapped:
            mapped[at:at + len(data)] = data
            mapped.flush()
        os.close(fd)
        self.put(path, at, data)

    def copy(self):
        source, target = self.some(), self.some()
        if source == target or not self.files[source]:
            return
        at = self.rng.randrange(len(self.files[source]))
        length = min(self.length(), len(self.files[source]) - at)
        to = self.rng.randrange(len(self.files[target]) + 1)
        fd_source, fd_target = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR)
        done = os.copy_file_range(fd_source, fd_target, length, at, to)
        os.close(fd_source)
        os.close(fd_target)
        self.put(target, to, bytes(self.files[source][at:at + done]))
        self.trim(target)

    def rename(self):
        """Half of the time onto a file that is there."""
        path = self.some()
        target = self.some() if self.rng.random() < 0.5 else self.new_path()
        os.rename(path, target)
        self.files[target] = self.files.pop(path)

    def unlink(self):
        path = self.some()
        os.unlink(path)
        del self.files[path]

    def whole(self):
        self.verify(self.some(), cold=self.rng.random() < 0.5)

    def work(self, end):
        actions = [self.create] * 3 + [self.overwrite] * 5 + [self.append] * 3 + [self.read] * 5
        actions += [self.truncate, self.store, self.copy, self.rename, self.unlink, self.whole, self.whole]
        while time.monotonic() < end:
            self.ops += 1
            (self.rng.choice(actions) if self.files else self.create)()
        for path in self.files:
            self.verify(path, cold=False)
            self.verify(path, cold=True)

    def account(self):
        hashes = {path: hashlib.sha256(model).hexdigest() for path, model in self.files.items()}
        return {"ops": self.ops, "verified": self.verified, "files": hashes}


def child(me, account, end, seed):
    worker = Worker(me, seed)
    try:
        worker.work(end)
    except Wrong as error:
        print(error, file=sys.stderr)
        return 1
    with open("%s.%d" % (account, me), "w") as out:
        json.dump(worker.account(), out)
    return 0


def accounts(account, processes):
    return [json.load(open("%s.%d" % (account, i))) for i in range(processes)]


def work(account, seconds, processes, seed):
    for name in DIRECTORIES:
        os.mkdir(name)
    end = time.monotonic() + seconds
    pids = []
    for me in range(processes):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = child(me, account, end, seed)
            except BaseException:
                import traceback
                traceback.print_exc()
            os._exit(code)
        pids.append(pid)
    if any([os.waitpid(pid, 0)[1] for pid in pids]):
        sys.exit(1)
    all = accounts(account, processes)
    print(json.dumps({"ops": sum(one["ops"] for one in all), "verified": sum(one["verified"] for one in all)}))


def look(account, processes):
    wanted = {}
    for one in accounts(account, processes):
        wanted.update(one["files"])
    found = {}
    size = 0
    for directory in DIRECTORIES:
        for name in os.listdir(directory):
            with open("%s/%s" % (directory, name), "rb") as file:
                data = file.read()
            size += len(data)
            found["%s/%s" % (directory, name)] = hashlib.sha256(data).hexdigest()
    for path in sorted(wanted.keys() | found.keys()):
        if wanted.get(path) != found.get(path):
            sys.exit("%s: is %s, not %s" % (path, found.get(path), wanted.get(path)))
    print(json.dumps({"files": len(found), "verified": size}))


os.chdir(sys.argv[2])
if sys.argv[1] == "work":
    work(sys.argv[3], float(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]))
else:
    look(sys.argv[3], int(sys.argv[4]))
