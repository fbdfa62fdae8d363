"""Names of outputs."""

from __future__ import annotations

from pathlib import PurePosixPath as P

from segnets.inference.names import output_names


def _names(*images: str, endings: tuple[str, ...] = (".png",)) -> list[str]:
    return [str(name) for name in output_names([P(image) for image in images], endings)]


def test_a_name_is_the_path_without_suffix() -> None:
    assert _names("a.jpg", "sub/b.tar.png", "c") == ["a", "sub/b.tar", "c"]


def test_images_that_share_a_name_keep_their_suffixes() -> None:
    assert _names("a.jpg", "b.jpg", "a.png") == ["a.jpg", "b", "a.png"]


def test_names_that_differ_in_case_only_are_shared() -> None:
    assert _names("A.jpg", "a.png") == ["A.jpg", "a.png"]


def test_equal_paths_of_different_sources_are_numbered() -> None:
    assert _names("a.jpg", "a.jpg", "a.jpg") == ["a.jpg", "a.jpg-2", "a.jpg-3"]


def test_the_name_of_one_output_is_not_that_of_another() -> None:
    names = _names("a.jpg", "a.confidence.jpg", endings=(".png", ".confidence.png"))
    assert names == ["a", "a.confidence.jpg"]


def test_no_name_leaves_the_folder() -> None:
    assert _names("../x/../../a.jpg", "/etc/b.jpg") == ["__/x/__/__/a", "etc/b"]


def test_an_earlier_number_is_not_taken_twice() -> None:
    names = _names("a.jpg", "a.jpg", "a.jpg-2.jpg")
    assert len(set(names)) == 3


def test_no_output_has_the_name_of_a_folder() -> None:
    assert _names("x.jpg", "x.png/1.jpg") == ["x.jpg", "x.png/1"]


def test_the_frames_of_a_video_have_a_folder_of_their_own() -> None:
    images = [P("clip.mp4"), P("clip/000001.jpg"), P("b.mp4")]
    names = output_names(images, [".png"], videos={0, 2})
    assert list(map(str, names)) == ["clip.mp4", "clip/000001", "b"]
