"""An event loop whose clock jumps: a test that waits four minutes takes milliseconds.

Real sockets, virtual seconds. Whenever nothing can run, nothing is on its way over loopback and
no thread is at work, `loop.time()` jumps to the next timer. The pytest plugin uses it by itself;
elsewhere run a coroutine on it:

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())

What holds: client and server must live in this loop. Threads and files take no virtual time at
all: while one is at work the clock stands still. `time.time()` does not move. A process started
by the test is not waited for. When nothing is left to wait for, `Deadlock` says so at once
instead of letting the test hang.
"""

from apikley_async.virtual._loop import Deadlock, VirtualLoop

__all__ = ["Deadlock", "VirtualLoop"]
