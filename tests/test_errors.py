import pytest

from raven import errors


@pytest.mark.parametrize("kind", [errors.PeerError, errors.RefusedError])
def test_an_error_with_a_reason_reads_as_its_message(
    kind: type[errors.PeerError | errors.RefusedError],
) -> None:
    error = kind("some-word", "A sentence.")
    assert (error.reason, str(error)) == ("some-word", "A sentence.")


def test_one_except_catches_whatever_raven_raises_on_purpose() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(kinds) >= 6
    assert all(issubclass(kind, errors.RavenError) for kind in kinds)


def test_ours_and_theirs_are_different_types() -> None:
    assert not issubclass(errors.PeerError, errors.LocalError)
    assert not issubclass(errors.LocalError, errors.PeerError)
