"""Ask for each URL and print what came as JSON, by URL: the answer's status and body, or the error's name.

Usage: client.py URL... ; URL=HOST asks that address for another host. Runs in Pods: it needs nothing but Python.
"""

import json
import sys
import urllib.error
import urllib.request


def fetch(word: str) -> object:
    """The status and the body of one answer."""
    url, _, host = word.partition("=")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with opener.open(request, timeout=10) as answer:
            return [answer.status, json.loads(answer.read())]
    except urllib.error.HTTPError as error:
        return [error.code, error.read().decode()]
    except OSError as error:
        return [0, str(error)]


print(json.dumps({word: fetch(word) for word in sys.argv[1:]}))
