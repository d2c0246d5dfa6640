"""Sentences to judge by, of templates that no training sentence has, said as people say them: politely, in haste, in another order.

`eval_generated.jsonl` is what `generated(360, Random(20261123))` returned when it was written; it stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from deploy.goal_service.examples import phrases
from deploy.goal_service.examples.cases import Case, goal_of

Made = tuple[str, str, str]
"""Sentence, shorthand of the current goal ("" for none), shorthand of the goal."""
Template = Callable[[Random], Made]


def _exact_speed(rng: Random) -> Made:
    back = rng.random() < 0.4
    said, x = phrases.speed(rng, 0.2, 1.3 if back else 3.4)
    way = rng.choice(["backwards", "backward", "in reverse"] if back else ["forwards", "straight ahead", "onward", ""])
    made = rng.choice(
        [
            f"I need you to travel {way} with a speed of {said}",
            f"set your speed to {said} {way}",
            f"{said} {way}, go",
            f"your new target is {said} {way}",
            f"let's have {said} {way}",
            f"proceed {way} doing {said}",
        ]
    )
    return " ".join(made.split()), "", f"speed:{-x if back else x}"


PACE = {
    ("ramble along at a leisurely pace", "take a slow walk"): "speed:0.5",
    ("amble along",): "speed:0.7",
    ("take a brisk walk", "walk at a quick pace", "stride out quickly"): "speed:1.5",
    ("break into a run", "start running now"): "speed:3",
    ("start jogging", "fall into a jog", "break into a trot"): "speed:2",
    ("give it everything you have", "go flat out", "top speed ahead", "charge at full speed"): "speed:3.4",
    ("retreat slowly", "slowly step back", "ease backwards at a slow pace"): "speed:-0.5",
    ("retreat quickly", "rush backwards"): "speed:-1.2",
    ("come to a standstill", "freeze where you are", "cease moving", "don't move a muscle", "stay put"): "speed:0",
    ("squat", "hunker down", "get down low", "assume a crouching position"): "height:1",
    ("rise to your full height", "stretch yourself tall", "make yourself tall"): "height:1.3",
    ("return to your normal height", "rise back up to normal height"): "height:1.25",
    ("tip forward a little", "lean your torso slightly forward"): "pitch:0.1",
    ("lean your torso backwards", "tilt your body back"): "pitch:-0.2",
    ("keep your torso upright", "straighten your back"): "pitch:0",
    ("jog and conserve energy", "jog in an energy saving way"): "speed:2+0.1*effort",
}
"""Words without numbers, by what they mean."""


def _words(rng: Random) -> Made:
    said, goal = rng.choice(list(PACE.items()))
    return rng.choice(said), "", goal


def _exact_height(rng: Random) -> Made:
    said, x = phrases.height(rng, 0.86, 1.34)
    made = [
        "bring your torso to {}",
        "I want your body {} above the floor",
        "have your torso at {}",
        "go down to {} in height",
    ]
    return rng.choice(made).format(said), "", f"height:{x}"


def _exact_pitch(rng: Random) -> Made:
    back = rng.random() < 0.4
    said, x = phrases.angle(rng, 0.05, 0.55)
    way = "backward" if back else "forward"
    made = ["tilt your torso {1} by {0}", "{0} of {1} lean please", "incline {0} {1}", "I'd like a {1} lean of {0}"]
    return rng.choice(made).format(said, way), "", f"pitch:{-x if back else x}"


def _both(rng: Random) -> Made:
    said, x = phrases.speed(rng, 0.2, 1.0)
    high, y = phrases.height(rng, 0.9, 1.3)
    made = rng.choice(
        [
            f"with your torso {high} high, advance at {said}",
            f"advance at {said} while holding a height of {high}",
            f"do {said} but keep the torso at {high}",
            f"height {high}, speed {said}",
        ]
    )
    return made, "", f"speed:{x}+height:{y}"


def _for_a_while(rng: Random) -> Made:
    said, x = phrases.speed(rng, 0.2, 3.0)
    lasts, s = phrases.seconds(rng)
    made = [f"for the next {lasts}, move at {said}", f"hold {said} for {lasts}", f"{lasts} at {said}, please"]
    return rng.choice(made), "", f"speed:{x} for {s}"


def _sequence(rng: Random) -> Made:
    said, x = phrases.speed(rng, 0.2, 3.0)
    lasts, s = phrases.seconds(rng)
    high, y = phrases.height(rng, 0.9, 1.3)
    made: Sequence[Made] = [
        (f"move at {said} for {lasts}; afterwards come to a stop", "", f"speed:{x} for {s} > speed:0"),
        (f"do {said} during {lasts}, followed by a crouch", "", f"speed:{x} for {s} > height:1"),
        (f"begin with a crouch, then after {lasts} advance at {said}", "", f"height:1 for {s} > speed:{x}"),
        (f"step one: torso to {high}. step two: run.", "", f"height:{y} > speed:3"),
        (f"hold still {lasts} and afterwards advance at {said}", "", f"speed:0 for {s} > speed:{x}"),
        (f"run for {lasts} before stopping", "", f"speed:3 for {s} > speed:0"),
    ]
    return rng.choice(made)


def _relative(rng: Random) -> Made:
    v, h = rng.choice([0.5, 0.8, 1.0, 1.4, 2.0]), rng.choice([1.05, 1.1, 1.2])
    made: Sequence[Made] = [
        ("accelerate", f"speed:{v}", f"speed:{v + 0.5}"),
        ("add some speed", f"speed:{v}+height:{h}", f"speed:{v + 0.5}+height:{h}"),
        ("you may go quicker", f"speed:{v}", f"speed:{v + 0.5}"),
        ("decelerate slightly", f"speed:{v}", f"speed:{v - 0.25}"),
        ("I want you a lot faster", f"speed:{v}", f"speed:{v + 1}"),
        ("reduce your speed a bit", f"speed:{v}+height:{h}", f"speed:{v - 0.25}+height:{h}"),
        ("sink a little lower", f"height:{h}", f"height:{h - 0.05}"),
        ("lower your body some more", f"height:{h}+speed:{v}", f"height:{h - 0.1}+speed:{v}"),
        ("come up slightly higher", f"height:{h}", f"height:{h + 0.05}"),
        ("increase the speed by 0.4 m/s", f"speed:{v}", f"speed:{v + 0.4}"),
        ("move at half your current speed", f"speed:{v}", f"speed:{v / 2}"),
        ("twice your present speed", f"speed:{v}", f"speed:{2 * v}"),
        ("raise yourself by ten centimetres", f"height:{h}", f"height:{h + 0.1}"),
    ]
    return rng.choice(made)


TEMPLATES: Sequence[tuple[int, Template]] = (
    (9, _exact_speed),
    (5, _words),
    (5, _exact_height),
    (4, _exact_pitch),
    (4, _both),
    (4, _for_a_while),
    (6, _sequence),
    (5, _relative),
)
BEFORE = (
    "hey, ",
    "okay robot: ",
    "right, ",
    "would you kindly ",
    "now ",
    "alright, ",
    "I think you should ",
    "next up: ",
)
AFTER = (", thanks", " if you please", "!", ".", " mate", ", will you", " - cheers")


def varied(sentence: str, rng: Random) -> str:
    """Return a sentence as somebody else would type it."""
    if rng.random() < 0.3:
        sentence = rng.choice(BEFORE) + sentence
    if rng.random() < 0.3:
        sentence += rng.choice(AFTER)
    if rng.random() < 0.2:
        sentence = phrases.misspelt(sentence, rng)
    return rng.choice([str, str, str, str.capitalize, str.upper])(sentence)


def generated(count: int, rng: Random) -> list[Case]:
    """Return so many cases, each sentence once."""
    weights, made = [w for w, _ in TEMPLATES], {}
    while len(made) < count:
        sentence, current, goal = rng.choices(TEMPLATES, weights)[0][1](rng)
        text = varied(sentence, rng)
        made.setdefault(text, Case(text, "walker", goal_of(current) if current else None, goal_of(goal)))
    return list(made.values())
