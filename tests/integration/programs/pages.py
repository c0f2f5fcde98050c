"""What the documentation shows of futures: pages fetched side by side, and what went wrong with each."""

import tempfile
import urllib.error
import urllib.request
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, as_completed, wait
from pathlib import Path


def load(url: str, timeout: float) -> bytes:
    with urllib.request.urlopen(url, timeout=timeout) as connection:
        content: bytes = connection.read()
        return content


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, ProcessPoolExecutor(max_workers=3) as executor:
        pages = [Path(directory) / f"page-{number}.html" for number in range(5)]
        for number, page in enumerate(pages):
            page.write_text(f"<p>{'content' * number}</p>")
        urls = [page.as_uri() for page in [*pages, Path(directory) / "missing.html"]]

        lines = []
        url_of = {executor.submit(load, url, 60): url for url in urls}
        for future in as_completed(url_of):
            name = url_of[future].rpartition("/")[2]
            try:
                content = future.result()
            except urllib.error.URLError as error:
                lines.append(f"{name} failed: {type(error).__name__}")
            else:
                lines.append(f"{name} has {len(content)} bytes")
        print("\n".join(sorted(lines)))

        done, _ = wait([executor.submit(load, url, 60) for url in urls], return_when=FIRST_EXCEPTION)
        print("one of them failed:", any(future.exception() for future in done))

        with ProcessPoolExecutor(max_workers=1) as inner:
            print("one worker is enough:", inner.submit(pow, 7, 500, 1009).result())


if __name__ == "__main__":
    main()
