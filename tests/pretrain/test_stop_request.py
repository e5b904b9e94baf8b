import os
import signal
import threading

import pytest

from reelscan.pretrain.stop_request import STOP_SIGNALS, stop_requests


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_is_a_wish(number):
    with stop_requests() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()


def test_a_ctrl_c_a_second_later_takes_its_usual_effect():
    clock = iter([0.0, 1.5, 1.5])
    with pytest.raises(KeyboardInterrupt), stop_requests(now=lambda: next(clock)) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        os.kill(os.getpid(), signal.SIGINT)


def test_what_a_launcher_sends_after_the_terminal_is_the_same_wish():
    with stop_requests() as stop:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        assert stop()


def test_handlers_are_put_back_even_after_an_error():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with pytest.raises(RuntimeError), stop_requests():
        raise RuntimeError
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_given_function_decides_alone_and_signals_are_left_alone():
    before = signal.getsignal(signal.SIGINT)
    with stop_requests(lambda: True) as stop:
        assert stop()
        assert signal.getsignal(signal.SIGINT) is before


def test_a_thread_does_not_listen_to_signals():
    answers = []

    def ask() -> None:
        with stop_requests() as stop:
            answers.append(stop())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert answers == [False]
