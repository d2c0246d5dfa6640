"""The published lexicon: what words without numbers mean, and which words a command is made of.

Every phrase has a mark: one letter that says what part it plays, and what it is worth. `agents/commands.py` reads them:

    g gait   m manner   d degree   b, f backward, forward   s stop   Z stand   c posture   L lean   U upright   e effort
    S, H, P speed, height, pitch   r, R, u, I, M faster, higher, up, increase, more   x times   K as before   O, G home, reach
    y, Y, E save, energy, its weight   k torso   & and   > then   F for   A after   i in   w when   j from now   @ at   B by   T to
    N may be anything   _ nothing
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from agents import quantities

# --- what words are worth

PACES: Mapping[str, tuple[float, float, float, float, float]] = {
    "creep": (0.2, 0.3, 0.3, 0.5, 0.5),
    "stroll": (0.3, 0.5, 0.7, 0.7, 1.0),
    "walk": (0.3, 0.5, 1.0, 1.5, 2.0),
    "march": (0.5, 0.8, 1.2, 1.5, 2.0),
    "move": (0.3, 0.5, 1.0, 2.0, 3.4),
    "go": (0.3, 0.5, 1.0, 2.0, 3.4),
    "jog": (1.0, 1.5, 2.0, 2.5, 3.0),
    "run": (1.5, 2.0, 3.0, 3.4, 3.4),
    "sprint": (3.4, 3.4, 3.4, 3.4, 3.4),
}
"""Gait -> m/s forward when it is done very slowly, slowly, as such, fast, very fast."""
BACKWARD: Mapping[str, tuple[float, float, float, float, float]] = {
    "creep": (-0.2, -0.3, -0.3, -0.5, -0.5),
    "walk": (-0.3, -0.5, -0.8, -1.2, -1.3),
}
"""The same backward; gaits that are not here go back as a walk does."""
HEIGHTS: Mapping[str, tuple[float, float, float]] = {
    "crouch": (1.1, 1.0, 0.9),
    "tall": (1.3, 1.3, 1.35),
    "normal": (1.25, 1.25, 1.25),
}
"""Posture -> torso height [m] when it is done a little, as such, very."""
LEAN = (0.1, 0.2, 0.4)
"""Forward lean [rad]: a little, as such, far; negative backward."""
EFFORT = (0.05, 0.1, 0.3)
"""Weight of effort: save a little, save, save a lot."""
FASTER, HIGHER, FURTHER = (0.25, 0.5, 1.0), (0.05, 0.1, 0.2), (0.05, 0.1, 0.2)
"""Relative words, in m/s, m and rad: a little, as such, much."""
STANDING_M = 1.25
"""What lower and higher begin at, where the goal so far has no height."""


def pace(gait: str, level: int, back: bool) -> float:
    """Return the speed [m/s] of a gait at a level, -2 (very slow) .. 2 (very fast)."""
    row = BACKWARD.get(gait, BACKWARD["walk"]) if back else PACES[gait]
    return row[level + 2]


# --- which words say so


@dataclass(frozen=True)
class Mark:
    """A part of a command: its letter, what it is worth, and the tokens [start, end) that said it."""

    letter: str
    value: Any
    start: int = 0
    end: int = 0


# MARK WORTH: words, and phrases with _ between their words
LETTERS = """
g creep: creep sneak inch tiptoe edge creeping sneaking inching tiptoeing edging shuffle tippy_toe tip_toe crawl_along
    on_tiptoe on_tiptoes on_your_tiptoes tiptoes upon_your_tiptoes
g stroll: stroll amble saunter wander mosey ramble roam take_a_walk take_a_stroll ambling strolling sauntering wandering
    meander take_an_amble
    dawdle dawdling wend_your_way
g walk: walk walk_on walking walks step stepping stride striding take_steps tread pacing plod plodding trudge trudging
    perambulate
g march: march marching
g move: move moving travel proceed advance drive head press press_on set_off get_going get_moving make_your_way head_out
    move_out advancing progress continue_on get_along travelling traveling cruise roll_on ease
    trundle scoot drift propel locomotion motor moved glide
g go: go going come carry get
g jog: jog jog_on jogging trot trotting lope canter jogs
g run: run run_on running gallop   rush race racing dash dashing charge
    whizz zoom
g sprint: sprint sprinting sprints full_sprint
m -2: snail's_pace as_slow_as_possible as_slowly_as_possible as_slow_as_you_can as_slowly_as_you_can minimum_speed
    at_a_crawl dead_slow barely ever_so_slowly
    slowest as_slowly_as_you_possibly_can as_slow_as_you_possibly_can utmost_slowness
m -1: slow slowly leisurely gently unhurriedly gingerly carefully low_speed take_your_time slow_pace easy calmly relaxed
    unhurried lazily cautiously take_it_easy take_it_slow slow_speed at_leisure softly nice_and_slow nice_and_slowly
    nice_and_easy slow_and_steady slowly_but_surely
m 0: normally moderately steadily normal_speed normal_pace moderate_speed moderate_pace medium_speed walking_pace
    walking_speed medium normal moderate steady regular comfortable comfortably average_speed regular_pace regular_speed
    usual_speed usual_pace back_to_normal_speed back_to_normal_pace back_to_a_normal_speed go_back_to_normal_speed
    go_back_to_a_normal_speed return_to_normal_speed plainly ordinary_pace ordinary_speed
m 1: fast quick quickly briskly brisk rapidly swiftly speedily hurriedly high_speed fast_pace hasty hastily speedy rapid
    swift fast_speed quick_pace lively energetically
m 2: flat_out full_speed top_speed maximum_speed max_speed as_fast_as_possible as_fast_as_you_can as_quickly_as_possible
    as_quickly_as_you_can full_throttle highest_speed fastest_speed full_tilt full_steam full_steam_ahead full_power
    full_blast with_all_speed all_out
    as_fast_as_you_possibly_can as_quickly_as_you_possibly_can as_fast_as_ever_you_can all_possible_speed
    utmost_speed top_pace
d -1: slightly little bit tad touch somewhat a_little a_bit a_tad a_touch a_little_bit just_a_bit a_fraction marginally
    faintly minimally gently_more slight small tiny wee teeny a_hair a_shade a_smidge a_notch a_wee_bit a_tiny_bit
    just_a_little just_a_little_bit only_a_little only_slightly a_small_bit just_slightly
    ever_so_slightly smidge just_a_smidge just_a_touch just_a_hair just_a_tad
d 1: much very lot considerably significantly deeply far deep way really a_lot all_the_way a_great_deal a_good_deal
    substantially lots super extremely ultra rly big heavily strongly
    greatly loads loads_of waaay deepest deepest_of extremely_deep utmost really_very rly_deep great a_whole_lot
    extreme
b: back backward backwards rearward reverse in_reverse rearwards in_reverse_gear to_the_back to_the_rear bwd
    astern tail_first rev to_the_rear_of retrograde bkwards bkwd behind_you to_the_rear
b go: back_it_up back_up walk_back go_back move_back step_back back_away back_off retreat withdraw retreating backing_up
    backing_away backpedal walk_in_reverse reverse_away
    back_it_up reversing reverse_yourself
f: forward forwards ahead onward onwards straight_on to_the_front forth fwd
    to_the_fore bow_first
s: come_to_a_complete_standstill come_to_a_complete_stop come_to_a_full_stop
    stop halt freeze wait pause standstill stand_still hold_still keep_still stop_moving stop_walking stop_running
    come_to_a_halt come_to_a_stop come_to_rest stay_put stay_still  stay_where_you_are do_not_move don't_move
    stand_where_you_are stop_where_you_are stand_there remain_still stopping halting waiting hold_position
    hold_your_position slow_down_and_stop slow_to_a_stop slow_down_to_a_stop ease_to_a_stop slow_to_a_halt
    stay_in_position stop_completely to_a_halt to_a_stop to_a_standstill to_rest cease cease_moving cease_walking
    cease_all_motion cease_motion motionless no_speed zero_speed rest stop_dead do_nothing don't_walk stopped halted
    come_to_a_standstill immobile stop_there standing_still stop_there all_stop dead_stop stand_by_where_you_are
    slam_on_the_brakes hit_the_brakes brakes_on quit_moving quit_walking quit_running emergency_stop
    complete_standstill complete_stop complete_halt stock_still be_still no_motion zero_motion no_motion_at_all
    full_stop no_movement all_motion_cease don't_budge do_not_budge stay_right_where_you_are stay_right_there
    remain_where_you_are stop_right_there stop_right_where_you_are
s there: stay_there stay_here hold_it hold_that hold_there hold_this stay_like_that stay_like_this hold_steady whoa
    hold_it_there
Z: stand standing
S: speed velocity pace forward_speed walking_speed_of vel
    rate heading_speed
H: height torso_height body_height hip_height ht hgt
P: pitch torso_pitch
c crouch: crouch duck_under crouched crouching squat squatting duck ducking hunker crouch_down squat_down duck_down
    hunker_down hunch_down bend_your_knees get_low stay_low keep_low low get_down stay_down down_low in_a_crouch
    a_crouch crouched_down hunch stoop stooped hunched hunkered squatted make_yourself_small small in_a_squat
    in_a_crouching_position crouching_position stand_low knees_bent bent_knees bend_the_knees low_stance low_posture
    go_low a_squat
c crouch!: as_low_as_possible as_low_as_you_can lowest as_low_as_you_possibly_can as_low_as_can_go
c tall: tall high stretch stretch_up full_height up_high stand_up_tall make_yourself_tall grow_tall stretched
    high_stance tall_stance extend_your_legs stretch_out stand_high straight_legs legs_straight
    tallness tall_of_stature tall_stature
c tall!: as_tall_as_possible as_tall_as_you_can as_high_as_possible as_high_as_you_can highest maximum_height tallest
    stretch_fully as_tall_as_you_possibly_can
    max_tallness as_tall_as_ever_is_possible as_tall_as_ever_possible as_tall_as_ever_you_can
c normal: stand_up get_up straighten_up normal_height standing_height usual_height get_back_up stand_back_up rise_up
    stand_up_again stand_up_straight stand_upright_again normal_stance default_height regular_height normal_posture
    back_to_normal_height stop_crouching stop_squatting stop_ducking normal_standing_height usual_standing_height
    regular_standing_height standing_position
    normal_standing_height_again regular_stance
r 1: faster quicker accelerate hurry speed_up more_speed pick_up_speed pick_up_the_pace hurry_up more_quickly step_on_it
    go_up_in_speed too_slow too_slowly quicken hasten get_a_move_on faster_pace more_pace more_speedily put_on_speed
    pick_it_up pick_up_pace more_speed too_slow_for_me throttle_up rev_up more_fast go_more_fast giddy_up
r -1: slower decelerate slow_down less_speed more_slowly ease_off brake slow_it_down less_fast too_fast too_quick
    too_quickly slacken slower_pace ease_up go_easy less_quickly back_off_the_speed slow_up ease_down throttle_down
    throttle_back brake_down slow_right_down slow_it_right_down more_slow go_more_slow slow_yourself_down
    abate
R 1: higher taller raise rise lift go_up come_up move_up rise_by too_low elevate elevated move_upwards upward upwards
    ascend rise_back rise_back_up come_back_up get_higher get_taller heighten
R -1: lower drop sink descend go_down come_down move_down get_lower lower_down too_high too_tall lowering deeper dip
    downward downwards move_downwards get_down_lower shorter go_back_down come_back_down
u 1: up
u -1: down
I 1: grow increment increase add more gain add_some extra boost another by_another by_a_further an_additional
I -1: trim decrement reduce decrease cut lessen take_off decreasing reducing shave_off drop_off shave
x 2: twice double doubled twice_as_fast two_times double_time two_fold
    twofold
x 0.5: halve halved half_as_fast half_your_speed half_the_speed half_your_current_speed half_that_speed
    half_of_your_speed half_speed slower_by_half cut_your_speed_in_half cut_the_speed_in_half cut_speed_in_half
    reduce_your_speed_by_half reduce_speed_by_half cut_your_speed_by_half cut_speed_by_half slow_down_by_half
    slow_by_half reduce_the_speed_by_half
x 3: triple three_times_as_fast three_times
M 1: further farther
M -1: less
L: lean leaning tilt tilting incline inclined bend bending leaned tip bend_over leans slant slanted bow bowing
    tilted tipped inclining tipping leant
U: back_upright come_back_upright come_back_to_upright come_upright
    upright straighten_your_back vertical straight_up sit_up_straight back_straight no_lean straighten_your_torso
    straighten_your_body level upright_posture straight_back without_leaning stop_leaning
E: effort_weight weight_of_effort
e: efficiently economically frugally save_energy save_power saving_energy save_battery saving_power conserve_energy
    spend_less little_effort less_effort use_less_energy use_less_power with_little_effort low_effort energy_saving
    spare_the_motors go_easy_on_the_motors spare_your_motors spend_less_effort spend_less_energy save_your_energy
    saving_your_energy spare_energy be_economical economical energy_efficient energy_efficiently energy_efficient_way
    energy_saving_way efficient sparingly use_little_energy use_little_power easy_on_the_motors energy_saving_mode
    eco_mode gentle_on_the_motors easy_on_the_battery take_it_easy_on_the_motors take_it_easy_on_the_battery
K on: go_on carry_on
K: continue keep_going same_speed same_pace keep_it_up keep_the_speed keep_your_speed keep_the_pace
    keep_this_speed keep_walking keep_running keep_moving also additionally in_addition as_well as_you_are at_this_speed
    keep_that_speed your_current_speed keep_doing_that at_the_same_speed maintain_speed maintain_your_speed
    hold_your_speed hold_speed hold_this_speed hold_the_speed maintain_pace at_this_pace at_your_current_speed
    unchanged_speed stay_at_this_speed without_changing_speed keep_on as_you_do as_before what_you_are_doing
    what_you're_doing doing_what_you_are_doing while_you_do_what_you_are_doing keep_on_like_this keep_this_pace
    keep_at_it keep_this_up keep_it_going as_you_were keep_on_going keep_on carry_on_going hold_the_current_pace
    hold_the_pace keep_the_current_pace same_height keep_the_height keep_your_height keep_this_height at_this_height
    at_the_same_height stay_at_this_height hold_the_height hold_this_height without_changing_your_height at_that_speed
    at_that_tempo stay_that_low stay_that_height stay_at_that_speed stay_at_that_pace stay_at_that_tempo at_this_tempo
    keep_that_pace of_this
y: save saving savings conserve conserving spare sparing economise economize economising economizing economy
Y: energy power battery battery_power electricity
&: and , . ; : ! - ( ) while but plus with whilst & at_the_same_time ?
>: after_it then afterwards afterward subsequently finally lastly later next thereafter and_then after_that after_which
    followed_by before when_done once_done and_finally once_you_are_there and_afterwards and_after_that
    when_you_are_there when_that_is_over after_this once_that_is_over later_on and_next after_which_you step_two
    step_three step_four second_step third_step secondly thirdly upon_completion and_later thereupon then_later
    when_that_is_done once_that_is_done whereupon follow_with follow_up_with finish_with finish_by and_finish end_with
    end_by and_end
F: hold_it_for hold_that_for keep_it_for keep_that_for for during for_the_next for_another for_about for_at_least
    lasting for_a_total_of over_the_next for_exactly for_a_duration_of for_roughly for_around for_the_duration_of
    for_a_full for_a_good spend
A: after
i: in
j: from_now
w: when once
@: at
B: by
T: come_back_to = to into rise_up_to stand_up_to get_up_to
O: home go_home home_position rest_position go_to_your_home_position
G: reach reach_for reach_out_to
x -1: other_way opposite_direction reverse_direction reverse_your_direction reverse_the_direction change_direction
    opposite_way
N: back_to_normal return_to_normal go_back_to_normal come_back
_: right_then are_up have_elapsed has_elapsed little_friend little_one little_guy little_buddy little_robot
    little_fellow little_pal little_helper big_guy pretty_please
    if_you_can if_you_please if_possible when_you_can at_once right_now right_there right_away for_me for_now
    if_you_would if_you_could as_soon_as_you_can please_do in_place do_that on_the_spot right_here at_ease some_more
    step_one next_up no_need_to_hurry break_into break_into_a fall_into fall_into_a settle_into settle_into_a switch_to
    switch_to_a change_to change_to_a go_into go_into_a get_into get_into_a go_back_to move_into move_into_a return_to
    return_to_your would_you_mind back_to back_to_your go_ahead_and go_on_and that_is_all that's_all no_rush
    no_rush_at_all no_hurry if_you_don't_mind if_you_do_not_mind i_mean straight_away start_with begin_with warm_up_with
    how_about we_need would_be_good would_be_nice would_be_great would_be_lovely that_would_be_great got_it come_on
    of_you say_again i_say_again do_it do_so from_now_on in_a_row go_to go_to_a move_to i_think i_think_you_should
    all_right
    no_pressure off_you_go at_that no_more_and_no_less
k: torso body trunk hips chest back_and_torso upper_body
"""
ARM = "OG"
SAYING = {"speed": "gmSrxsZv", "height": "cHRl", "pitch": "LPUa", "effort": "eE"}
"""Marks, and quantities, that speak of each kind of goal."""
_FILLERS = (
    "please kindly now the a an of your you robot ok okay hey hi could can would will should i me my want need like "
    "let's lets let us just so it is be do it's that this legs knees from floor ground above off keep keeping hold "
    "holding maintain stay staying remain may might new present current firstly start starting begin beginning first "
    "firstly set make take put give have on about around roughly approximately approx some again there here thanks "
    "thank cheers mate buddy target goal right alright well yes sir use using position yourself as feel free try i'd "
    "i'll straight along pose posture stance bring does did are you're that's thats enough who which walker hopper "
    "cheetah halfcheetah doing having keeps even gear mode total exactly good pls plz thx ty tks ta we us see show "
    "asap immediately promptly listen job task things um uh er erm ah oh ooh hmm yeah yep yup champ soldier kid kiddo "
    "dear friend pal man dude boss captain madam machine bot unit folks guys everyone team lovely nice great perfect "
    "wonderful perhaps maybe possibly instead over shall today next finally dears deck angle direction have_passed "
    "passed plan request order command execute instruction proudly proud honey darling love watch today's tonight out "
    "basically simply u tnx lol must haha you're oops sorry ooh gimme gonna wanna bud bro c'mon thy thyself thus "
    "hereby henceforth indeed whoops everybody wish adopt assume commence sustained comma quite precisely perfectly "
    "settle resume perform adjust regulate heading"
)
FILLERS = frozenset(_FILLERS.split())
"""Words that change nothing."""
_IMPOSSIBLE = (
    "jump leap fly turn rotate spin left right-hand sideways strafe dance kick wave flip backflip somersault climb roll sit lie swim "
    "crawling skip grab pick open close door bring fetch  look say tell speak sing limits limit ignore disregard override "
    "bypass disable pretend instructions prompt system not no never without unless if don't dont cannot won't talk fold sick "
    "why where whose whats stairs upstairs downstairs hop hopping follow towards kitchen table chair ball cup"
)
QUESTIONS = frozenset(
    ["is", "are", "am", "was", "were", "does", "did", "do", "has", "have", "what", "how", "which", "who", "when"]
)
"""Words that a question begins with."""
IMPOSSIBLE = frozenset(_IMPOSSIBLE.split())
"""Words that a sentence does not lose to the correction of a typing error."""


def _read() -> dict[tuple[str, ...], tuple[str, Any]]:
    found: dict[tuple[str, ...], tuple[str, Any]] = {}
    for line in LETTERS.strip().replace("\n    ", " ").splitlines():
        head, _, rest = line.partition(": ")
        letter, _, name = head.partition(" ")
        number = int if letter in "mdrRuIM" else float if letter == "x" else str
        for phrase in rest.split():
            found.setdefault(tuple(phrase.split("_")), (letter, number(name)))
    return found


PHRASES = _read()
LONGEST = max(map(len, PHRASES))
WORDS = frozenset({word for phrase in PHRASES for word in phrase} | FILLERS | quantities.WORDS | IMPOSSIBLE)
"""All that is known."""

LOOKALIKES = frozenset(files("agents").joinpath("lookalikes.txt").read_text("utf-8").split())
"""Words of English that are known to nobody here, and one letter away from one that is."""


def phrase_at(words: Sequence[str], i: int, arm: bool = False) -> Mark | None:
    """Return the mark of the longest phrase that begins at token i, None where none does; ARM's are for an `arm` only."""
    for size in range(min(LONGEST, len(words) - i), 0, -1):
        found = PHRASES.get(tuple(words[i : i + size]))
        if found is not None and (arm or found[0] not in ARM):
            return Mark(*found, i, i + size)
    return None


def spelled(word: str) -> str:
    """Return the one known word that a word is, but for one typing error; itself, where there is none or several that matter."""
    found = slips(word)
    meanings = {PHRASES.get((known,)) for known in found}
    alike = len(meanings) == 1 and meanings != {None}
    return min(found) if len(found) == 1 or alike or (found and found <= FILLERS) else word


def slips(word: str) -> set[str]:
    """Return the known words that an unknown one may be, but for one typing error.

    Short words are too much alike for that, and a word of its own is no error.
    """
    if word in WORDS or word in LOOKALIKES or len(word) < 4 or not word.isalpha():
        return set()
    return {known for known in WORDS if abs(len(known) - len(word)) < 2 and len(known) > 3 and _slip(word, known)}


def _slip(word: str, meant: str) -> bool:
    """Return whether one letter was dropped, doubled, put in or mistaken, or two were swapped."""
    if len(word) == len(meant):
        off = [i for i, (a, b) in enumerate(zip(word, meant, strict=True)) if a != b]
        if len(off) == 2 and off[1] == off[0] + 1:
            return word[off[0]] == meant[off[1]] and word[off[1]] == meant[off[0]]
        return len(off) == 1
    short, long = sorted((word, meant), key=len)
    if len(short) < 4 or (len(short) == 4 and word == long and not _doubled(long, short)):
        return False
    return any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


def _doubled(long: str, short: str) -> bool:
    return any(long[i] == long[i - 1] and long[:i] + long[i + 1 :] == short for i in range(1, len(long)))
