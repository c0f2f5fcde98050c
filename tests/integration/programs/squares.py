"""What the documentation shows of Pool first: squares in every way, who ran them, and a result that comes too late."""

import os
import time
from multiprocessing import Pool, TimeoutError


def square(x: int) -> int:
    return x * x


def main() -> None:
    with Pool(processes=4) as pool:
        print(pool.map(square, range(10)))

        for result in sorted(pool.imap_unordered(square, range(10))):
            print(result, end=" ")
        print()

        late_but_fine = pool.apply_async(square, (20,))
        print(late_but_fine.get(timeout=30))

        process = pool.apply_async(os.getpid, ())
        print("another process:", process.get(timeout=30) != os.getpid())

        processes = [pool.apply_async(os.getpid, ()) for _ in range(20)]
        print("at most four processes:", len({each.get(timeout=30) for each in processes}) <= 4)

        sleeper = pool.apply_async(time.sleep, (600,))
        try:
            print(sleeper.get(timeout=0.2))
        except TimeoutError:
            print("it still sleeps")
        print("more work meanwhile:", pool.apply(square, (7,)))
    try:
        pool.apply(square, (7,))
    except ValueError as error:
        print("after the block:", error)


if __name__ == "__main__":
    main()
