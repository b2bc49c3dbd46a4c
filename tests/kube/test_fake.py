"""The fake API server answers what it shall; that a real one answers the same stands in `tests/e2e_kube`."""

from __future__ import annotations

import trio.testing

from tests.kube.conversation import converse
from tests.kube.fake import FakeApi


async def test_its_answers(autojump_clock: trio.testing.MockClock) -> None:
    api = FakeApi()
    answers = await converse(api.client())
    assert answers[1:3] == ["exists", "not-found"]
    assert [["ADDED", "w"], ["MODIFIED", "w"], ["DELETED", "w"], ["ADDED", "w"], ["DELETED", "w"]] in answers
    assert not api.objects
