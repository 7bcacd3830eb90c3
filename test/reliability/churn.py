"""
churn.py DIRECTORY OPERATIONS PROCESSES: operations that all reach the filesystem, on names that are new each time, and
that leave about as much behind as they found. What grows meanwhile grows with the number of operations, and not with
what is stored. Prints how many were done.
"""
import os
import sys

KEPT = 50
DATA = os.urandom(3000)


def churn(me, operations):
    # Names are new in each run too.
    serial = int.from_bytes(os.urandom(5), "big") << 20
    own = "churn%d" % me
    os.makedirs(own, exist_ok=True)
    os.chdir(own)
    kept = os.listdir(".")
    done = 0
    while done < operations:
        serial += 1
        name, other = "f%x" % serial, "g%x" % serial
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        os.write(fd, DATA[:serial % 3000])
        os.pwrite(fd, b"x", 5000)
        os.close(fd)
        os.chmod(name, 0o600)
        os.setxattr(name, "user.churn", b"value")
        os.link(name, other)
        os.rename(name, "h%x" % serial)
        os.unlink(other)
        os.symlink("h%x" % serial, name)
        os.readlink(name)
        os.unlink(name)
        os.mkdir(other)
        os.rename(other, name)
        os.rmdir(name)
        os.path.exists(other)
        done += 15
        kept.append("h%x" % serial)
        if len(kept) > KEPT:
            path = kept.pop(0)
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.read(fd, 6000)
            os.close(fd)
            os.unlink(path)
            done += 2
    return done


root, operations, processes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.chdir(root)
pids = []
for me in range(processes):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            churn(me, operations // processes)
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        os._exit(code)
    pids.append(pid)
if any([os.waitpid(pid, 0)[1] for pid in pids]):
    sys.exit(1)
print(operations)
