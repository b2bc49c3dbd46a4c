"""When superframes are given up, and when they are tried again."""

from raven.wg.stepdown import HOLD_MAX, HOLD_MIN, SILENCE_MAX, TRIAL_FRAMES, Step, StepDown


def send(step: StepDown, count: int, now: float) -> int:
    """How many of `count` superpackets went as frames."""
    gone = 0
    for _ in range(count):
        if step.allows(now):
            step.sent(now)
            gone += 1
    return gone


def proven(now: float = 0.0) -> StepDown:
    step = StepDown()
    send(step, TRIAL_FRAMES, now)
    step.reported(TRIAL_FRAMES, 0, now + 0.1, outstanding=False)
    assert step.step is Step.UP
    return step


def test_a_trial_sends_a_few_and_waits_for_the_report() -> None:
    step = StepDown()
    assert send(step, 1000, 0.0) == TRIAL_FRAMES
    assert send(step, 1000, 0.5) == 0
    step.reported(TRIAL_FRAMES, 0, 0.6, outstanding=False)
    assert send(step, 1000, 0.7) == 1000


def test_a_report_in_the_middle_of_a_trial_does_not_end_it() -> None:
    step = StepDown()
    send(step, 10, 0.0)
    step.reported(10, 0, 0.1, outstanding=False)
    assert step.step is Step.TRIAL
    assert send(step, 1000, 0.2) == TRIAL_FRAMES - 10


def test_loss_steps_down_and_each_failed_trial_waits_twice_as_long() -> None:
    step = proven()
    now, waits = 1.0, []
    for _ in range(8):
        send(step, 100, now)
        step.reported(100, 5, now + 0.1, outstanding=False)
        assert step.step is Step.DOWN
        begin = now = now + 0.1
        while not send(step, 1, now):
            now += 0.1
        waits.append(now - begin)
        send(step, TRIAL_FRAMES, now)
        step.reported(TRIAL_FRAMES, TRIAL_FRAMES // 2, now, outstanding=False)
        now += HOLD_MAX + 1
        assert send(step, TRIAL_FRAMES, now) == TRIAL_FRAMES
        step.reported(TRIAL_FRAMES, 0, now, outstanding=False)
        now += 1
    assert waits[0] < HOLD_MIN + 0.2
    assert [round(wait) for wait in waits] == [4, 16, 64, 120, 120, 120, 120, 120], "two failures each"


def test_a_little_loss_is_borne() -> None:
    step = proven()
    for second in range(1, 50):
        assert send(step, 200, second) == 200
        step.reported(200, 3, second + 0.1, outstanding=False)


def test_a_buffer_that_overflows_is_congestion_and_no_bad_path() -> None:
    """Twenty frames in a row, once a second, of ten thousand."""
    step = proven()
    for twentieth in range(2, 200):
        now = twentieth / 20
        assert send(step, 500, now) == 500
        step.reported(500, 20 if twentieth % 20 == 0 else 0, now + 0.04, outstanding=False)


def test_a_path_that_loses_most_is_left_at_once() -> None:
    step = proven()
    send(step, 500, 0.2)
    step.reported(500, 300, 0.25, outstanding=False)
    assert step.step is Step.DOWN


def test_a_frame_on_its_way_is_not_lost() -> None:
    step = proven()
    for second in range(1, 50):
        send(step, 20, second)
        step.reported(20, 1 if second % 2 else -1, second + 0.1, outstanding=True)
        assert step.step is Step.UP


def test_silence_steps_down() -> None:
    for step in (StepDown(), proven()):
        now = 10.0
        send(step, 5, now)
        while now < 10.0 + SILENCE_MAX:
            assert step.step is not Step.DOWN
            now += 0.05
            send(step, 5, now)
        assert step.step is Step.DOWN


def test_silence_after_a_pause_proves_nothing() -> None:
    step = proven()
    send(step, 1, 5.0)  # its report is lost
    assert send(step, 1, 100.0) == 1
    assert step.step is Step.UP


def test_a_trial_whose_report_was_lost_is_repeated_after_a_pause() -> None:
    step = StepDown()
    send(step, TRIAL_FRAMES, 0.0)
    assert send(step, 1000, 60.0) == TRIAL_FRAMES


def test_a_long_good_time_forgets_old_failures() -> None:
    step = proven()
    for now in (1.0, 200.0, 400.0):  # three failures
        send(step, 100, now)
        step.reported(100, 100, now, outstanding=False)
        send(step, TRIAL_FRAMES, now + HOLD_MAX)
        step.reported(TRIAL_FRAMES, 0, now + HOLD_MAX, outstanding=False)
    assert step.step is Step.UP
    send(step, 1, 600.0)
    step.reported(1, 0, 600.0, outstanding=False)
    send(step, 100, 601.0)
    step.reported(100, 100, 601.0, outstanding=False)
    assert send(step, 1, 601.0 + HOLD_MIN - 0.1) == 0
    assert send(step, 1, 601.0 + HOLD_MIN + 0.1) == 1


def test_reports_of_what_was_sent_before_the_step_down_change_nothing() -> None:
    step = proven()
    send(step, 100, 1.0)
    step.reported(50, 50, 1.1, outstanding=True)
    assert step.step is Step.DOWN
    step.reported(50, 0, 1.2, outstanding=False)
    assert step.step is Step.DOWN
