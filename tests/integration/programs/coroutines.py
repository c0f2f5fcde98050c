"""What the documentation shows of asyncio and executors: work for the processor beside coroutines."""

import asyncio
import os
from concurrent.futures import ProcessPoolExecutor

prefix = ""


def greet(text: str) -> None:
    global prefix
    prefix = text


def work(n: int) -> str:
    return f"{prefix} {sum(i * i for i in range(n))}"


def fail() -> None:
    os.stat("/there/is/no/such/file")


async def main() -> None:
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(initializer=greet, initargs=("sum",)) as executor:
        print(await loop.run_in_executor(executor, work, 10**5))
        print(await asyncio.gather(*(loop.run_in_executor(executor, work, n) for n in range(5))))
        try:
            await loop.run_in_executor(executor, fail)
        except FileNotFoundError as error:
            print("not there:", error.filename)
        print(await asyncio.wrap_future(executor.submit(work, 3)))


if __name__ == "__main__":
    asyncio.run(main())
