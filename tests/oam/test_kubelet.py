"""Verbs of kubelet paths, and paths that could be two things at once."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.oam.kubelet import KubeletRequest, Verb, kubelet_request_untrusted
from raven.oam.refusal import Refusal


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("/containerLogs/default/web/main?follow=true", KubeletRequest(Verb.LOGS, "default", "web", "main")),
        ("/exec/default/web/main?command=sh&input=1", KubeletRequest(Verb.EXEC, "default", "web", "main")),
        ("/exec/default/web/0a1b-2c/main?command=sh", KubeletRequest(Verb.EXEC, "default", "web", "main")),
        ("/run/default/web/main?cmd=id", KubeletRequest(Verb.EXEC, "default", "web", "main")),
        ("/attach/kube-system/dns/main", KubeletRequest(Verb.ATTACH, "kube-system", "dns", "main")),
        ("/portForward/default/web", KubeletRequest(Verb.PORT_FORWARD, "default", "web")),
        ("/portForward/default/web/0a1b-2c", KubeletRequest(Verb.PORT_FORWARD, "default", "web")),
        ("/stats/summary", KubeletRequest(Verb.STATS)),
        ("/stats/summary?only_cpu_and_memory=true", KubeletRequest(Verb.STATS)),
        ("/stats/", KubeletRequest(Verb.STATS)),
        ("/metrics", KubeletRequest(Verb.METRICS)),
        ("/metrics/cadvisor", KubeletRequest(Verb.METRICS)),
        ("/metrics/resource", KubeletRequest(Verb.METRICS)),
        ("/pods", KubeletRequest(Verb.PODS)),
        ("/runningpods/", KubeletRequest(Verb.PODS)),
        ("/healthz", KubeletRequest(Verb.HEALTH)),
        ("/healthz/ping", KubeletRequest(Verb.HEALTH)),
        ("/logs/syslog", KubeletRequest(Verb.NODE_LOGS)),
        ("/configz", KubeletRequest(Verb.OTHER)),
        ("/debug/pprof/heap", KubeletRequest(Verb.OTHER)),
        ("/cri/exec/0123abcd", KubeletRequest(Verb.OTHER)),
        ("/checkpoint/default/web/main", KubeletRequest(Verb.OTHER)),
        ("/", KubeletRequest(Verb.OTHER)),
        ("/EXEC/default/web/main", KubeletRequest(Verb.OTHER)),
        ("/%65xec/default/web/main", KubeletRequest(Verb.EXEC, "default", "web", "main")),
        ("/containerLogs/default", KubeletRequest(Verb.LOGS)),
    ],
)
def test_the_verb_of_a_path(target: str, wanted: KubeletRequest) -> None:
    assert kubelet_request_untrusted(target) == wanted


@pytest.mark.parametrize(
    "target",
    [
        "/containerLogs/../exec/default/web/main",
        "/containerLogs/%2e%2e/exec/default/web/main",
        "/containerLogs/./default/web/main",
        "//exec/default/web/main",
        "/containerLogs//exec/web/main",
        "/containerLogs%2f..%2fexec/default/web/main",
        "/containerLogs/default/web%2fmain",
        "/containerLogs%252fx",
        "/stats\\..\\exec",
        "/exec;x/default/web/main",
        "/exec\x00/default",
        "/exec/%00",
        "/exec/%ff",
        "exec/default/web/main",
        "http://node/exec",
        "*",
        "",
    ],
)
def test_a_path_that_may_be_read_in_two_ways_is_refused(target: str) -> None:
    with pytest.raises(Refusal) as refused:
        kubelet_request_untrusted(target)
    assert refused.value.reason == "bad-target"


def test_it_reads_well_in_an_audit_line() -> None:
    assert str(kubelet_request_untrusted("/exec/default/web/main?command=x")) == "exec default/web/main"
    assert str(kubelet_request_untrusted("/stats/summary")) == "stats"


@given(st.text(max_size=60))
def test_any_text_has_a_verb_or_is_refused(text: str) -> None:
    for target in (text, "/" + text, "/exec/" + text):
        with suppress(Refusal):
            assert kubelet_request_untrusted(target).verb in Verb
