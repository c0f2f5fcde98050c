"""scipy's optimizers take any map-like function as ``workers``: a pool's, for one."""

import numpy as np
from scipy.optimize import differential_evolution

import multihost


def rastrigin(x: np.ndarray) -> float:
    """A surface with many valleys; the deepest, 0, is at the origin."""
    return float(10 * x.size + np.sum(x**2 - 10 * np.cos(2 * np.pi * x)))


def main() -> None:
    """Find the deepest valley, a generation of candidates at a time."""
    with multihost.Pool() as pool:
        found = differential_evolution(
            rastrigin,
            bounds=[(-5.12, 5.12)] * 2,
            workers=pool.map,
            updating="deferred",  # what scipy asks of those who work on a whole generation at once
            rng=7,
        )
    print(f"the deepest valley is at {np.round(found.x, 3) + 0.0}, {found.fun:.3f} deep")


if __name__ == "__main__":
    main()
