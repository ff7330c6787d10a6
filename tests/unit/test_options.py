"""Where settings come from, which source wins, and what is refused with which words."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mesh_iptables.config import Config
from mesh_iptables.errors import UsageError
from mesh_iptables.options import (
    CLUSTER_FILE,
    SIDECAR_FILE,
    Setting,
    configure,
    gather,
    split_list,
    split_words,
    warnings,
)

from .names import FewNames

NO_FILES: Mapping[str, bytes] = {}


def settle(
    *words: str,
    environment: Mapping[str, str] = NO_FILES,  # type: ignore[assignment]  # an empty mapping is empty
    files: Mapping[str, bytes] = NO_FILES,
    dry_run: bool = False,
    names: FewNames | None = None,
) -> tuple[Config, list[str]]:
    """The checked settings of a command line, and the warnings."""
    settings = gather(split_words(words).rules, environment, files.get, dry_run=dry_run)
    config = configure(settings, names or FewNames(), dry_run=dry_run)
    return config, list(warnings(config, settings))


def proxy_port(**sources: Mapping[str, str] | Mapping[str, bytes]) -> int:
    return settle(**sources)[0].proxy_port.low  # type: ignore[arg-type]  # keywords of settle


def test_words_are_taken_apart_as_getopt_does() -> None:
    request = split_words(["-u1337", "-p", "1", "--proxy-port=2", "--mode", "TPROXY", "-p3"])
    assert {name: setting.text for name, setting in request.rules.items()} == {
        "proxy_uid": "1337",
        "proxy_port": "3",
        "mode": "TPROXY",
    }
    assert request.rules["proxy_port"].source == "-p"


def test_two_dashes_end_the_options_and_nothing_may_follow() -> None:
    assert split_words(["-u", "1337", "--"]).rules["proxy_uid"].text == "1337"
    with pytest.raises(UsageError, match="'--': stands behind the options"):
        split_words(["--", "word"])


def test_a_value_may_begin_with_a_dash_or_be_empty() -> None:
    request = split_words(["-x", "", "-b", "-5"])
    assert request.rules["exclude_outbound_ranges"].text == ""
    assert request.rules["inbound_ports"].text == "-5"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["-p"], "-p: has no value behind it"),
        (["-u", "1337", "--mode"], "--mode: has no value behind it"),
        (["-z"], "'-z': there is no such option"),
        (["--nonsense=1"], "'--nonsense': there is no such option"),
        (["-u", "1337", "word"], "'word': stands behind the options"),
        (["-u", "1337", "clean"], "'clean': stands behind the options"),
        (["--host=yes"], "--host: takes no value"),
        (["--quiet=", "-p"], "--quiet: takes no value"),
        (["-"], "'-': stands behind the options"),
    ],
)
def test_a_command_line_that_the_script_would_misread_is_refused(words: list[str], complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        split_words(words)
    assert str(caught.value).startswith(complaint)


def test_an_option_beats_the_sidecar_file_beats_the_cluster_file_beats_the_environment() -> None:
    environment = {"ENVOY_PORT": "1"}
    cluster = {CLUSTER_FILE: b"ENVOY_PORT=2\n"}
    sidecar = {**cluster, SIDECAR_FILE: b"ENVOY_PORT=3\n"}
    assert proxy_port() == 15001
    assert proxy_port(environment=environment) == 1
    assert proxy_port(environment=environment, files=cluster) == 2
    assert proxy_port(environment=environment, files=sidecar) == 3
    assert settle("-p", "4", environment=environment, files=sidecar)[0].proxy_port.low == 4


def test_the_cluster_file_may_name_the_sidecar_file() -> None:
    files = {CLUSTER_FILE: b"ISTIO_SIDECAR_CONFIG=/other.env\n", "/other.env": b"ENVOY_PORT=5\n"}
    assert proxy_port(files=files) == 5


def test_a_dry_run_reads_only_the_files_that_its_arguments_name() -> None:
    files = {SIDECAR_FILE: b"ENVOY_PORT=3\n", "/named.env": b"ENVOY_PORT=4\n"}
    assert settle(files=files, dry_run=True)[0].proxy_port.low == 15001
    named = {"ISTIO_SIDECAR_CONFIG": "/named.env"}
    assert settle(files=files, environment=named, dry_run=True)[0].proxy_port.low == 4


def test_an_empty_variable_means_the_default_and_an_empty_option_does_not() -> None:
    assert proxy_port(environment={"ENVOY_PORT": ""}) == 15001
    with pytest.raises(UsageError, match=r"^-p: '' is not a port"):
        settle("-p", "")
    config, _ = settle("-b", "", environment={"ISTIO_INBOUND_PORTS": "80"})
    assert not config.inbound_ports


def test_without_owners_the_proxys_user_and_root_are_exempt() -> None:
    config, _ = settle()
    assert [owner.low for owner in config.proxy_uids] == [4711, 0]
    assert [owner.low for owner in config.proxy_gids] == [4711, 0]
    config, _ = settle(environment={"ENVOY_USER": "ghost"})
    assert [owner.low for owner in config.proxy_uids] == [1337, 0]
    config, _ = settle(environment={"ENVOY_USER": "1"})
    assert [owner.low for owner in config.proxy_uids] == [1, 0]
    config, _ = settle(environment={"ENVOY_USER": "4242"})
    assert [owner.low for owner in config.proxy_uids] == [1337, 0]
    config, _ = settle("-u", "5", "-g", "6,7")
    assert [owner.low for owner in (*config.proxy_uids, *config.proxy_gids)] == [5, 6, 7]


def test_a_dry_run_asks_for_no_user_it_was_not_given() -> None:
    names = FewNames()
    config, _ = settle(dry_run=True, names=names)
    assert names.asked == []
    assert [owner.low for owner in config.proxy_uids] == [1337, 0]
    settle(dry_run=True, names=names, environment={"ENVOY_USER": "daemon"})
    assert names.asked == ["daemon"]


def test_the_capture_port_is_the_proxy_port_unless_set() -> None:
    assert settle("-p", "7")[0].inbound_capture_port.low == 7
    assert settle(environment={"INBOUND_CAPTURE_PORT": "8"})[0].inbound_capture_port.low == 8


def test_lists_take_one_comma_at_the_end() -> None:
    assert split_list(Setting("9080,", "-b")) == ["9080"]
    assert split_list(Setting("80, 443", "-b")) == ["80", " 443"]
    assert split_list(Setting("", "-b")) == []


@pytest.mark.parametrize(("text", "position"), [("80,,443", 2), (",80", 1), (",", 1), ("80,,", 2), ("80, ,443", 2)])
def test_an_empty_entry_in_a_list_is_refused_with_its_place(text: str, position: int) -> None:
    with pytest.raises(UsageError, match=f"-b: .* has an empty entry at position {position};"):
        split_list(Setting(text, "-b"))


def test_a_list_file_holds_an_entry_a_line_and_comments() -> None:
    files = {"ports.txt": b"80  # web\n\n# nothing\n443\n"}
    assert [port.low for port in settle("-b", "@ports.txt", files=files)[0].inbound_ports.include] == [80, 443]
    with pytest.raises(UsageError, match=r"^-b: cannot read the list 'gone\.txt'"):
        settle("-b", "@gone.txt")
    with pytest.raises(UsageError, match=r"^-b @bad.txt: 'x' is not a port"):
        settle("-b", "@bad.txt", files={"bad.txt": b"80\nx\n"})


@pytest.mark.parametrize("mode", ["tproxy", "redirect", "NONE", " TPROXY", "TPROXY "])
def test_an_unknown_mode_is_refused(mode: str) -> None:
    with pytest.raises(UsageError, match="is not a mode; expected REDIRECT or TPROXY"):
        settle("-m", mode)


def test_an_empty_mode_is_redirect() -> None:
    assert settle("-m", "")[0].mode == "REDIRECT"


def test_tproxy_needs_one_port_only_where_it_is_used() -> None:
    assert settle("-m", "TPROXY", "-p", "15001-15003")[0].proxy_port.high == 15003
    with pytest.raises(UsageError, match="TPROXY takes one port only"):
        settle("-m", "TPROXY", "-b", "80", "-p", "15001-15003")


@pytest.mark.parametrize(
    ("words", "environment", "warning"),
    [
        (["-b", "80", "-d", "81"], {}, "-d: ports are excluded only from -b '*'"),
        (["-d", "81"], {}, "-d: ports are excluded only from -b '*'"),
        ([], {"ISTIO_LOCAL_EXCLUDE_PORTS": "81"}, "ISTIO_LOCAL_EXCLUDE_PORTS: ports are excluded only from -b '*'"),
        (
            ["-m", "TPROXY", "-b", "*"],
            {"INBOUND_CAPTURE_PORT": "15006"},
            "INBOUND_CAPTURE_PORT: TPROXY uses the port of -p for inbound too",
        ),
    ],
)
def test_an_option_without_effect_is_warned_about(words: list[str], environment: dict[str, str], warning: str) -> None:
    _, found = settle(*words, environment=environment)
    assert len(found) == 1
    assert found[0].startswith(warning)


def test_useful_options_are_not_warned_about() -> None:
    assert settle("-b", "*", "-d", "81", environment={"INBOUND_CAPTURE_PORT": "15006"})[1] == []
