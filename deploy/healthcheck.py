"""The container's health check: exit code 0 when the worker's /livez says yes, else 1 and why.

Slim images have no curl. Not urllib: it would ask a proxy that the environment names.
"""

import http.client
import os
import sys

DEFAULT_PORT = "9464"
TIMEOUT = 5.0  # seconds


def main() -> int:
    _, _, port = os.environ.get("STREAMKIT_HTTP", "").rpartition(":")
    connection = http.client.HTTPConnection("127.0.0.1", int(port or DEFAULT_PORT), timeout=TIMEOUT)
    try:
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        print(answer.read().decode(errors="replace").strip())
        return int(answer.status != 200)
    except (OSError, http.client.HTTPException) as error:
        print(f"/livez on port {port or DEFAULT_PORT} does not answer: {error!r}")
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
