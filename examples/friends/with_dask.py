"""A dask graph computed on a cluster: dask takes any executor as its scheduler."""

import dask

import multihost


def square(n: int) -> int:
    """A leaf of the graph."""
    return n * n


def total(numbers: list[int]) -> int:
    """The root of the graph: dask calls it when all leaves have been computed."""
    return sum(numbers)


def main() -> None:
    """Add up squares."""
    square_later, total_later = dask.delayed(square), dask.delayed(total)
    graph = total_later([square_later(n) for n in range(20)])
    with multihost.Executor() as executor:
        (result,) = dask.compute(graph, scheduler=executor)
    print(f"the sum of the squares is {result}")


if __name__ == "__main__":
    main()
