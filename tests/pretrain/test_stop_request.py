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


def test_the_second_ctrl_c_takes_its_usual_effect():
    with pytest.raises(KeyboardInterrupt), stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        os.kill(os.getpid(), signal.SIGINT)


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
