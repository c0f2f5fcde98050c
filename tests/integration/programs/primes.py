"""What the documentation shows of ProcessPoolExecutor: which of some large numbers are prime."""

import math
from concurrent.futures import ProcessPoolExecutor

NUMBERS = [2, 27, 7919, 2_147_483_647, 4_294_967_297, 600_851_475_143, 999_999_000_001]


def is_prime(n: int) -> bool:
    return n > 1 and all(n % divisor for divisor in range(2, math.isqrt(n) + 1))


def main() -> None:
    with ProcessPoolExecutor() as executor:
        for number, prime in zip(NUMBERS, executor.map(is_prime, NUMBERS), strict=True):
            print(f"{number} is {'a' if prime else 'no'} prime")


if __name__ == "__main__":
    main()
