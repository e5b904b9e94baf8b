import cv2
import pytest
from colour_encoder import write_colours

from reelscan.retrieval.contact_sheet import SheetRow, write_contact_sheet
from reelscan.retrieval.searcher import SearchHit


def hit(path, start=0.0, end=2.0):
    return SearchHit(video=path.name, start_seconds=start, end_seconds=end, score=0.25, path=path)


def share_of(picture, red, green, blue):
    """Share of the pixels near a colour."""
    distance = abs(picture.astype(int) - (blue, green, red)).max(axis=-1)
    return (distance < 40).mean()


@pytest.fixture
def video(tmp_path):
    return write_colours(tmp_path / "v.mp4", "red red green blue blue blue", size=64)


def test_each_hit_shows_the_middle_of_its_segment(video, tmp_path):
    rows = [
        SheetRow(title="reds", hits=[hit(video), hit(video, 0.0, 1.0)]),
        SheetRow(title="blue", hits=[hit(video, 4.0, 6.0)]),
    ]
    write_contact_sheet(tmp_path / "sheet.png", rows, columns=2, thumbnail_width=160)
    picture = cv2.imread(str(tmp_path / "sheet.png"))
    upper, lower = picture[: len(picture) // 2], picture[len(picture) // 2 :]
    square = 90 * 90 / upper[..., 0].size
    assert share_of(upper, 255, 0, 0) == pytest.approx(2 * square, rel=0.1)
    assert share_of(lower, 0, 0, 255) == pytest.approx(square, rel=0.1)
    assert share_of(picture, 0, 255, 0) == 0


def test_the_picture_grows_with_rows_and_columns(video, tmp_path):
    sizes = []
    for rows, columns in ((1, 1), (1, 3), (2, 3)):
        row = SheetRow(title="t", hits=[hit(video)] * 5)
        write_contact_sheet(tmp_path / "s.png", [row] * rows, columns=columns, thumbnail_width=100)
        sizes.append(cv2.imread(str(tmp_path / "s.png")).shape[:2])
    assert sizes[0][1] < sizes[1][1] == sizes[2][1]
    assert sizes[0][0] == sizes[1][0] < sizes[2][0]


def test_odd_titles_and_unreadable_videos_are_shown_not_raised(video, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows = [
        SheetRow(title=r"costs $5 or \frac{$6} " * 30, hits=[hit(tmp_path / "broken.mp4")]),
        SheetRow(title="", hits=[]),
        SheetRow(title="gone", hits=[hit(tmp_path / "gone.mp4", 3599.96, 3700.0), hit(video)]),
    ]
    write_contact_sheet(tmp_path / "sheet.png", rows, columns=3)
    assert share_of(cv2.imread(str(tmp_path / "sheet.png")), 255, 0, 0) > 0


def test_bad_requests_are_refused_and_leave_nothing(video, tmp_path):
    row = SheetRow(title="t", hits=[hit(video)])
    for rows, settings in (([], {}), ([row], {"columns": 0}), ([row], {"thumbnail_width": 10})):
        with pytest.raises(ValueError, match="at least"):
            write_contact_sheet(tmp_path / "sheet.png", rows, **settings)
    with pytest.raises(FileNotFoundError):
        write_contact_sheet(tmp_path / "nowhere" / "sheet.png", [row])
    assert [one.name for one in tmp_path.iterdir()] == ["v.mp4"]


def test_several_frames_of_a_hit_lie_in_the_order_of_time(video, tmp_path):
    row = SheetRow(title="t", hits=[hit(video, 0.0, 6.0)])
    write_contact_sheet(tmp_path / "s.png", [row], columns=1, frames_per_hit=2)
    picture = cv2.imread(str(tmp_path / "s.png"))
    half = picture.shape[1] // 2
    left, right = picture[:, :half], picture[:, half:]
    assert share_of(left, 255, 0, 0) > 0.1 and share_of(left, 0, 0, 255) == 0
    assert share_of(right, 0, 0, 255) > 0.1 and share_of(right, 255, 0, 0) == 0
