"""Random HTTP rules of an Istio VirtualService."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from .vocabulary import Fields, maybe, weighted


@dataclass(frozen=True)
class Destinations:
    """What rules may lead to. Without `chance` only one of several destinations has a weight."""

    hosts: Sequence[str]
    ports: Sequence[int]
    chance: bool

    def one(self, random: Random) -> Fields:
        missing = random.random() < 0.03
        destination: Fields = {"host": "missing.example.com" if missing else random.choice(self.hosts)}
        destination |= maybe(random, 0.2, lambda: {"subset": random.choice(["v1", "v2"])})
        return destination | maybe(random, 0.35, lambda: {"port": {"number": random.choice(self.ports)}})

    def route(self, random: Random) -> list[Fields]:
        """One destination, or several with weights."""
        first: Fields = {"destination": self.one(random)}
        if random.random() < (0.4 if self.chance else 0.8):
            return [first]
        weights = random.choice([(50, 50), (30, 70)] if self.chance else [(100, 0), (0, 1)])
        return [
            {**first, "weight": weights[0]},
            {"destination": self.one(random), "weight": weights[1]},
        ]


def http_rules(random: Random, destinations: Destinations) -> list[Fields]:
    return [_rule(random, destinations) for _ in range(random.randint(1, 3))]


def _rule(random: Random, destinations: Destinations) -> Fields:
    rule: Fields = maybe(random, 0.75, lambda: {"match": [_match(random) for _ in range(random.choice([1, 1, 2]))]})
    action = weighted(random, {"route": 10, "redirect": 2, "direct": 2})
    rule |= maybe(random, 0.2, lambda: {"headers": _header_operations(random)})
    if action == "redirect":
        return rule | {"redirect": _redirect(random)}
    if action == "direct":
        return rule | {"directResponse": _direct_response(random)}
    rule["route"] = [_with_headers(random, each) for each in destinations.route(random)]
    return rule | _route_extras(random, destinations)


def _with_headers(random: Random, route: Fields) -> Fields:
    return route | maybe(random, 0.12, lambda: {"headers": _header_operations(random)})


def _route_extras(random: Random, destinations: Destinations) -> Fields:
    extras = maybe(random, 0.25, lambda: {"rewrite": _rewrite(random)})
    extras |= maybe(random, 0.15, lambda: {"timeout": random.choice(["300ms", "400ms", "5s", "0s"])})
    extras |= maybe(random, 0.25, lambda: {"retries": _retries(random)})
    extras |= maybe(random, 0.12, lambda: {"fault": _fault(random)})
    return extras | maybe(random, 0.08, lambda: _mirror(random, destinations))


# --- matches ------------------------------------------------------------------------------------------


def _match(random: Random) -> Fields:
    makers: list[Callable[[], Fields]] = [
        lambda: {"uri": _uri(random)},
        lambda: {"uri": _uri(random)},
        lambda: {"uri": _uri(random), "ignoreUriCase": True},
        lambda: {
            "method": random.choice([{"exact": "GET"}, {"exact": "POST"}, {"regex": "GET|HEAD"}, {"prefix": "P"}])
        },
        lambda: {"headers": {"x-v": _header_value(random)}},
        lambda: {"withoutHeaders": {"x-v": _header_value(random)}},
        lambda: {"queryParams": {"x": random.choice([{"exact": "1"}, {"regex": "1|2"}, {"prefix": "1"}, {}])}},
        lambda: {"authority": _authority(random)},
        lambda: {"scheme": {"exact": random.choice(["http", "http", "https"])}},
        lambda: {"port": random.choice([80, 8080])},
        lambda: {"sourceLabels": {"app": random.choice(["shop", "shop", "other"])}},
        lambda: {"sourceNamespace": random.choice(["shop", "shop", "default"])},
        lambda: {"gateways": random.choice([["mesh"], ["edge"]])},
    ]
    match: Fields = {}
    for make in random.sample(makers, random.choice([1, 1, 2])):
        match |= make()
    return match


def _uri(random: Random) -> Fields:
    matches = {
        "prefix": ["/", "/a", "/a/", "/b", "/status", "/%61", "/delay", "/A"],
        "exact": ["/a", "/b", "/", "/a/b", "/A", "/status/503"],
        "regex": ["/a.*", "/[ab]", "/a/?b?", ".*", "/(a|b)/.*", "(?i)/A", "/status/[45].*", "/flaky.*"],
    }
    kind = random.choice(["prefix", "prefix", "exact", "regex"])
    return {kind: random.choice(matches[kind])}


def _header_value(random: Random) -> Fields:
    matches: list[Fields] = [{"exact": "1"}, {"prefix": "1"}, {"regex": "[0-9]+"}, {"regex": "*"}, {"regex": ".*"}, {}]
    return random.choice([*matches, {"exact": ""}, {"prefix": ""}])


def _authority(random: Random) -> Fields:
    names = ["api", "www", "shop", "API"]
    matches = [{"prefix": random.choice(names)}, {"regex": ".*[.]example[.].*"}, {"exact": "api.example.com"}]
    return random.choice(matches)


# --- actions ------------------------------------------------------------------------------------------


def _redirect(random: Random) -> Fields:
    parts: Fields = {
        "uri": random.choice(["/there", "/there?y=2", "/"]),
        "authority": random.choice(["www.example.com", "www.example.com:8080"]),
        "scheme": "https",
    }
    redirect: Fields = {key: parts[key] for key in random.sample(sorted(parts), random.choice([1, 1, 2]))}
    return redirect | maybe(random, 0.5, lambda: {"redirectCode": random.choice([301, 302, 303, 307, 308])})


def _direct_response(random: Random) -> Fields:
    body = maybe(random, 0.7, lambda: {"body": {"string": random.choice(["direct", "{}", "100%"])}})
    return {"status": random.choice([200, 204, 304, 403, 503]), **body}


def _rewrite(random: Random) -> Fields:
    expressions = [
        {"match": "^/(a|b)", "rewrite": "/x/\\1"},
        {"match": "a", "rewrite": "z"},
        {"match": "/status/(.*)", "rewrite": "/s-\\1\\0"},
    ]
    path: Fields = {"uri": random.choice(["/", "/new", "/n/", "/q?y=1"])}
    path = {"uriRegexRewrite": random.choice(expressions)} if random.random() < 0.3 else path
    authority = {"authority": random.choice(["rewritten.example.com", "rewritten.example.com:81"])}
    return random.choice([path, authority, path | authority])


def _retries(random: Random) -> Fields:
    kinds = ["5xx", "gateway-error", "reset", "connect-failure", "retriable-4xx", "503", "retriable-status-codes,429"]
    attempts = random.choice([0, 1, 2])
    if not attempts:
        return {"attempts": 0}
    retries: Fields = {"attempts": attempts}
    retries |= maybe(random, 0.7, lambda: {"retryOn": ",".join(random.sample(kinds, random.choice([1, 2])))})
    return retries | maybe(random, 0.3, lambda: {"perTryTimeout": random.choice(["150ms", "3s"])})


def _fault(random: Random) -> Fields:
    def sure() -> Fields:
        return random.choice([{"percentage": {"value": 100}}] * 3 + [{"percentage": {"value": 0}}, {}])

    abort = {"abort": {"httpStatus": random.choice([200, 204, 400, 418, 500, 599]), **sure()}}
    delay = {"delay": {"fixedDelay": random.choice(["50ms", "900ms"]), **sure()}}
    return random.choice([abort, abort, delay, {**abort, **delay}])


def _mirror(random: Random, destinations: Destinations) -> Fields:
    mirror = {"mirror": {"host": random.choice(destinations.hosts)}, "mirrorPercentage": {"value": 100}}
    several = {"mirrors": [{"destination": {"host": random.choice(destinations.hosts)}}]}
    return random.choice([mirror, several])


def _header_operations(random: Random) -> Fields:
    request: Fields = {
        "set": random.choice([{"x-set": "1"}, {"host": "set.example.com"}, {"x-v": "7", "user-agent": "proxy"}]),
        "add": random.choice([{"x-v": "2"}, {"X-Add": "a%b"}, {"x-empty": ""}]),
        "remove": [random.choice(["x-rm", "x-v", "user-agent", "x-envoy-attempt-count"])],
    }
    response: Fields = {
        "set": random.choice([{"x-answer": "1"}, {"server": "mine"}, {"content-type": "text/x"}]),
        "add": random.choice([{"x-answer": "2"}, {"set-cookie": "a=b"}]),
        "remove": [random.choice(["x-upstream-conn", "server", "content-type", "x-envoy-upstream-service-time"])],
    }
    return {
        "request": {key: request[key] for key in random.sample(sorted(request), random.choice([1, 2]))},
        "response": {key: response[key] for key in random.sample(sorted(response), random.choice([0, 1]))},
    }
