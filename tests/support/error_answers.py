"""What an error of the service says."""

import json


def message(answer):
    """The one line of an error, after checks that hold for each."""
    error = json.loads(answer.content)["error"]
    assert error["request_id"] == answer.headers["x-request-id"]
    assert "\n" not in error["message"]
    return error["message"]
