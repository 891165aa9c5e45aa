"""As much of curl as the pages use, for machines without it: `-sS`, `-w`, `-H`, `-d`, `-X`, one URL."""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.request


def main() -> int:
    """Make the request and write the answer; 7 is curl's code for a server that cannot be reached."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-d", dest="data")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-sS", action="store_true")  # it shows neither progress nor more than its errors anyway
    parser.add_argument("-w", dest="after", default="")
    parser.add_argument("url")
    given = parser.parse_args()
    data = None if given.data is None else given.data.encode()
    url = given.url if "://" in given.url else f"http://{given.url}"
    request = urllib.request.Request(url, data, method=given.method)  # noqa: S310 - the pages name http alone
    for header in given.headers:
        name, _, value = header.partition(":")
        request.add_header(name, value.strip())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            sys.stdout.buffer.write(answer.read())
    except urllib.error.HTTPError as error:
        sys.stdout.buffer.write(error.read())
    except OSError:
        return 7
    sys.stdout.flush()
    sys.stdout.buffer.write(given.after.replace("\\n", "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
