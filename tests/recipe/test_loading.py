"""A YAML file becomes a model, or one message names every fault with its file, line and way out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.recipe.loading import dump_yaml, load_yaml


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Engine(Strict):
    cylinders: int
    litres: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.5
    turbo: bool = False


class Wheel(Strict):
    size: int
    maker: str | None = None


class Car(Strict):
    name: str
    engine: Engine
    wheels: list[Wheel] = Field(default_factory=list)
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _is_said_with_a_colon(cls, name: str) -> str:
        if name == "bad":
            raise ValueError("note: this name is bad")
        return name

    @field_validator("options")
    @classmethod
    def _has_no_spoiler(cls, options: dict[str, Any]) -> dict[str, Any]:
        if "spoiler" in options:
            raise ValueError("spoiler: not on this car")
        return options


GOOD = """\
# a comment
name: swift
engine:
  cylinders: 4
  litres: 2
wheels:
  - {size: 15}
  - size: 16
    maker: Ito
"""


def write(folder: Path, text: str | bytes, name: str = "car.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_yaml(Car, path, overrides)
    return str(caught.value)


def test_a_good_file_is_read(tmp_path: Path) -> None:
    car = load_yaml(Car, write(tmp_path, GOOD))
    assert car == Car(
        name="swift",
        engine=Engine(cylinders=4, litres=2.0),
        wheels=[Wheel(size=15), Wheel(size=16, maker="Ito")],
    )
    assert isinstance(car.engine.litres, float)


@pytest.mark.parametrize("number", ["1e-4", "1.0e-4", "1E-4", "0.0001", "+1e-4", ".0001"])
def test_numbers_are_read_however_people_write_them(tmp_path: Path, number: str) -> None:
    path = write(tmp_path, GOOD)
    assert load_yaml(Car, path, [f"engine.litres={number}"]).engine.litres == 1e-4
    assert (
        load_yaml(Car, write(tmp_path, GOOD.replace("litres: 2", f"litres: {number}"))).engine.litres == 1e-4
    )


@pytest.mark.parametrize(
    ("line", "value", "fault"),
    [
        (4, '  cylinders: "4"', "engine.cylinders: must be a whole number, not '4'; write it without quotes"),
        (4, "  cylinders: true", "engine.cylinders: must be a whole number, not true"),
        (4, "  cylinders: 4.0", "engine.cylinders: must be a whole number, not 4.0"),
        (4, "  cylinders: 010", "engine.cylinders: must be a whole number, not '010'"),
        (4, "  cylinders: 1:30", "engine.cylinders: must be a whole number, not '1:30'"),
        (4, "  cylinders:", "engine.cylinders: must be a whole number, not null"),
        (5, "  litres: true", "engine.litres: must be a number, not true"),
        (5, "  litres: .nan", "engine.litres: must be a finite number, not nan"),
        (5, "  litres: 1e999", "engine.litres: must be a finite number, not inf"),
        (5, "  litres: 0", "engine.litres: must be more than 0.0, not 0"),
        (5, "  turbo: yes", "engine.turbo: must be true or false, not 'yes'"),
        (2, "name: 12", "name: must be text"),
        (3, "engine: []", "engine: must be a mapping"),
        (2, "name: bad", "name: note: this name is bad"),
    ],
)
def test_a_wrong_value_is_refused_at_its_line(tmp_path: Path, line: int, value: str, fault: str) -> None:
    lines = GOOD.splitlines()
    if value.startswith("engine"):
        del lines[3:5]
    lines[line - 1] = value
    path = write(tmp_path, "\n".join(lines))
    assert f"{path}:{line}: {fault}" in refusal(path)


def test_all_faults_are_said_in_one_message(tmp_path: Path) -> None:
    path = write(tmp_path, "name: 1\nengine: {cylinder: 4}\nwheels:\n  - size: x\n  - {size: 3, makre: y}\n")
    assert refusal(path).splitlines() == [
        f"{path}:1: name: must be text (a number or a date as text is written in quotes), not 1",
        f"{path}:2: engine.cylinders: missing; add it",
        f"{path}:2: engine.cylinder: unknown key; did you mean cylinders? known here: cylinders, litres, turbo",
        f"{path}:4: wheels.0.size: must be a whole number, not 'x'",
        f"{path}:5: wheels.1.makre: unknown key; did you mean maker? known here: size, maker",
    ]


def test_a_fault_in_a_free_mapping_is_placed_at_its_key(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "options:\n  radio: 1\n  spoiler: 1\n")
    assert refusal(path) == f"{path}:12: options.spoiler: not on this car"


def test_an_unknown_key_far_from_all_lists_the_known_ones(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "zzz: 1\n")
    assert refusal(path) == f"{path}:10: zzz: unknown key; known here: name, engine, wheels, options"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", ": the file is empty"),
        ("# only a comment\n", ": the file is empty"),
        ("- 1\n", ":1: the file must be a mapping"),
        ("just words\n", ":1: the file must be a mapping"),
        ("name: a\n\tengine: b\n", ":2: not valid YAML"),
        ("name: a\nengine: [1, 2\nwheels: 3\n", ":3: not valid YAML"),
        ("name: a\nname: b\n", ":2: name stands here and on line 1; remove one"),
        ("engine:\n  litres: 1\n  litres: 1\n", ":3: engine.litres stands here and on line 2"),
        ("name: &a x\nengine: *a\n", ":2: not valid YAML: aliases"),
        ("<<: {name: a}\n", ":1: keys must be plain words"),
        ("? [a, b]\n: c\n", ":1: keys must be plain words"),
        ("name: !!python/object/apply:os.system [ls]\n", ":1: tags such as"),
        ("name: !!binary aGk=\n", ":1: tags such as !!binary"),
        ("name: !!int x\n", ":1: 'x' cannot be read as int"),
        ("name: !!bool x\n", ":1: 'x' cannot be read as bool"),
        ("name: a\n---\nname: b\n", ":2: not valid YAML: a second document"),
        ("name: a\nengine: \0\n", ":2: not valid YAML: the character U+0000"),
        ("a: " + "[" * 5000, ": is nested too deeply"),
        ("name: " + "9" * 5000, ":1: "),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", ": is not a text file in UTF-8"),
        ("name: a".encode("utf-16"), ": is not a text file in UTF-8"),
        (b"#" * (1 << 20) + b"##", ": more than 1,048,576 bytes"),
    ],
)
def test_a_file_that_is_no_plain_yaml_is_refused(tmp_path: Path, text: str | bytes, fault: str) -> None:
    path = write(tmp_path, text)
    assert refusal(path).startswith(f"{path}{fault}")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert refusal(
        tmp_path / "no.yaml"
    ) == f"{tmp_path / 'no.yaml'}: cannot be read: No such file or directory." + (" Check the path.")
    assert refusal(tmp_path).startswith(f"{tmp_path}: cannot be read: Is a directory")


def test_nested_aliases_do_not_explode(tmp_path: Path) -> None:
    lines = ["a0: &a0 [lol]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    path = write(tmp_path, "\n".join(lines))
    assert (
        refusal(path) == f"{path}:2: not valid YAML: aliases (*name) are not supported; write the value out"
    )


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_yaml(Car, path).name == "swift"
    broken = write(tmp_path, GOOD.replace("\n", "\r\n").replace("cylinders: 4", "cylinders: x"))
    assert refusal(broken).startswith(f"{broken}:4: ")


class TestBase:
    def test_mappings_merge_and_lists_replace(self, tmp_path: Path) -> None:
        write(tmp_path, GOOD, "common/car.yaml")
        heir = write(
            tmp_path, "base: common/car.yaml\nengine: {turbo: true}\nwheels: [{size: 20}]\n", "heir.yaml"
        )
        car = load_yaml(Car, heir)
        assert car.engine == Engine(cylinders=4, litres=2.0, turbo=True)
        assert car.wheels == [Wheel(size=20)]
        assert car.name == "swift"

    def test_a_fault_is_placed_in_the_file_in_which_it_stands(self, tmp_path: Path) -> None:
        base = write(tmp_path, GOOD.replace("litres: 2", "litres: no"), "common/car.yaml")
        heir = write(tmp_path, "base: common/car.yaml\n\nengine:\n  turbo: 1\n", "heir.yaml")
        assert refusal(heir).splitlines() == [
            f"{base}:5: engine.litres: must be a number, not 'no'",
            f"{heir}:4: engine.turbo: must be true or false, not 1",
        ]

    def test_a_list_of_the_heir_hides_the_places_of_the_base(self, tmp_path: Path) -> None:
        write(tmp_path, GOOD, "base.yaml")
        heir = write(tmp_path, "base: base.yaml\nwheels:\n  - size: x\n", "heir.yaml")
        assert refusal(heir).startswith(f"{heir}:3: wheels.0.size: ")
        heir.write_text("base: base.yaml\n\nwheels: [{size: 1},\n  {maker: x}]\n")
        assert refusal(heir) == f"{heir}:4: wheels.1.size: missing; add it"

    def test_a_key_missing_in_both_is_placed_in_the_heir(self, tmp_path: Path) -> None:
        write(tmp_path, "name: a\n", "base.yaml")
        heir = write(tmp_path, "base: base.yaml\n", "heir.yaml")
        assert refusal(heir) == f"{heir}:1: engine: missing; add it"

    def test_a_circle_is_refused(self, tmp_path: Path) -> None:
        a = write(tmp_path, "base: b.yaml\n", "a.yaml")
        write(tmp_path, "base: ./sub/../a.yaml\n", "b.yaml")
        (tmp_path / "sub").mkdir()
        assert "b.yaml:1: base: leads in a circle" in refusal(a)
        own = write(tmp_path, "base: own.yaml\n", "own.yaml")
        assert "own.yaml:1: base: leads in a circle" in refusal(own)

    @pytest.mark.parametrize(
        ("base", "fault"),
        [
            ("no.yaml", "there is no file"),
            (".", "there is no file"),
            ("[a, b]", "must be the name of a file"),
            ("", "must be the name of a file"),
            ('"a\\0b"', "must be the name of a file"),
            ("x" * 5000, "is no name of a file"),
        ],
    )
    def test_a_base_that_is_no_file_is_refused(self, tmp_path: Path, base: str, fault: str) -> None:
        path = write(tmp_path, f"name: a\nbase: {base}\n")
        message = refusal(path)
        assert message.startswith(f"{path}:2: base: ")
        assert fault in message

    def test_a_broken_base_is_named(self, tmp_path: Path) -> None:
        base = write(tmp_path, "a: [", "base.yaml")
        assert refusal(write(tmp_path, "base: base.yaml\n")).startswith(f"{base}:1: not valid YAML")


class TestOverrides:
    def test_later_ones_win_and_lists_are_addressed_by_number(self, tmp_path: Path) -> None:
        path = write(tmp_path, GOOD)
        car = load_yaml(
            Car, path, ["engine.litres=1", "wheels.1.maker=null", "engine.litres=3", "wheels.0.size=1"]
        )
        assert car.engine.litres == 3.0
        assert car.wheels == [Wheel(size=1), Wheel(size=16)]

    def test_they_create_what_the_file_left_out(self, tmp_path: Path) -> None:
        path = write(tmp_path, "name: a\nengine: {cylinders: 1}\n")
        car = load_yaml(
            Car, path, ["options.deep.er=[1, x]", "wheels=[{size: 1}]", "wheels.0.maker=M", "name=a=b"]
        )
        assert car.options == {"deep": {"er": [1, "x"]}}
        assert car.wheels == [Wheel(size=1, maker="M")]
        assert car.name == "a=b"

    @pytest.mark.parametrize(
        ("override", "fault"),
        [
            ("engine.cylinders=x", "engine.cylinders: must be a whole number, not 'x'"),
            ("engine.cylinders=", "engine.cylinders: must be a whole number, not null"),
            ("engine.litre=3", "engine.litre: unknown key; did you mean litres?"),
            ("engin.litres=3", "engin: unknown key; did you mean engine?"),
            ("litres=3", "litres: unknown key; did you mean engine.litres?"),
            ("engine.maker=x", "engine.maker: unknown key; did you mean wheels.0.maker?"),
            ("engine.name=x", "engine.name: unknown key; did you mean name?"),
            ("wheels[1].size=3", "elements of a list are written wheels.1, not wheels[1]"),
            ("engine", "overrides are written key.path=value"),
            ("=3", "overrides are written key.path=value"),
            ("engine..litres=3", "overrides are written key.path=value"),
            ("base=x.yaml", "base is for files"),
            ("name.first=x", "name is a single value, it has no 'first'"),
            ("wheels.2.size=1", "wheels is a list, numbered 0 to 1"),
            ("wheels.-1.size=1", "wheels is a list, numbered 0 to 1"),
            ("wheels.².size=1", "wheels is a list, numbered 0 to 1"),
            ("wheels.x=1", "wheels is a list, numbered 0 to 1"),
            ("wheels.0=1", "wheels.0: must be a mapping"),
            ("name=[", "not valid YAML"),
            (
                "name=*.jsonl",
                "not valid YAML: expected alphabetic or numeric character, but found '.'. Text with",
            ),
            ("name=*x", "not valid YAML: aliases (*name) are not supported; write the value out. Text with"),
            ("name=!!python/name:os.system ''", "tags such as"),
        ],
    )
    def test_a_wrong_one_is_refused_by_name(self, tmp_path: Path, override: str, fault: str) -> None:
        message = refusal(write(tmp_path, GOOD), override)
        assert message.startswith(f"override {override!r}: {fault}")

    def test_spaces_round_the_equals_sign_do_no_harm(self, tmp_path: Path) -> None:
        assert load_yaml(Car, write(tmp_path, GOOD), [" engine.cylinders = 6 "]).engine.cylinders == 6

    def test_a_very_long_one_is_shown_shortened(self, tmp_path: Path) -> None:
        for override in ("engine.cylinders=" + "9" * 5000, "engine.cylinders=" + "[" * 5000):
            message = refusal(write(tmp_path, GOOD), override)
            assert message.startswith(f"override '{override[:200]}...': ")
            assert len(message) < 500

    def test_a_fault_of_the_file_is_still_placed_in_the_file(self, tmp_path: Path) -> None:
        path = write(tmp_path, GOOD.replace("cylinders: 4", "cylinders: x"))
        assert refusal(path, "engine.turbo=true").startswith(f"{path}:4: engine.cylinders")


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
text_like_other_things = st.sampled_from(
    [
        "1e4",
        "1e-4",
        "010",
        "0x1F",
        "1:30",
        "yes",
        "no",
        "null",
        "~",
        "true",
        "2024-01-01",
        "=",
        "<<",
        "1_000",
        ".5",
        "",
    ]
)


@settings(deadline=None)
@example(name="a\x85b", litres=1.0, cylinders=1, maker="\u2028")
@given(
    name=text | text_like_other_things,
    litres=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    cylinders=st.integers(),
    maker=text | text_like_other_things,
)
def test_what_is_dumped_is_loaded_again_equal(
    tmp_path_factory: pytest.TempPathFactory, name: str, litres: float, cylinders: int, maker: str
) -> None:
    if name == "bad":
        return
    car = Car(
        name=name,
        engine=Engine(cylinders=cylinders, litres=litres),
        wheels=[Wheel(size=1, maker=maker)],
        options={"a": [name, None, {"b": maker}], "c": litres},
    )
    path = write(tmp_path_factory.mktemp("dump"), dump_yaml(car))
    assert load_yaml(Car, path) == car
