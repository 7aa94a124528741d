"""A running `letgo review`."""

import http.client
import re
import signal
import subprocess
import sys

from helpers.commands import environment


class Server:
    """A running `letgo review`; `output` is what it prints until it is ready."""

    def __init__(self, *arguments, **variables):
        command = [sys.executable, "-m", "letgo", "review", *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment(), **variables},
        )
        self.output = ""
        for line in self.process.stdout:
            self.output += line
            if match := re.search(r"http://(\S+):(\d+)/\?token=(\S+)", line):
                self.url, self.host, self.port = match[0], match[1].strip("[]"), int(match[2])
                self.own = {"Cookie": f"letgo_review_{self.port}={match[3]}"}
                return
        raise AssertionError(self.output)

    def stop(self, number=signal.SIGKILL):
        """End it; what it has printed since it was ready."""
        self.process.send_signal(number)
        self.process.wait()
        with self.process.stdout as stream:
            return stream.read()

    def request(self, path="/", method="GET", body=None, chunked=False, **headers):
        """The status and the body of the answer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, headers, encode_chunked=chunked)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def status(self, path="/", **options):
        """The status of the answer."""
        return self.request(path, **options)[0]
