"""plan over machines that are not here: who does what, and the reasons; costs that grow with the work."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from omendb_kernels.cost import KINDS, Amounts, Profile, Sizes, amounts, seconds
from omendb_kernels.machine import Gpu
from omendb_kernels.plan import NEVER, options, ordered, plan, told
from omendb_kernels.profiles import CLASSES, TENSOR, known, of_card, of_processor

H100 = Gpu("H100 SXM", 80_000_000_000, 79_000_000_000, 90, "580", 16896, 1.98, 2.619, 5120)
L4 = Gpu("L4", 24_000_000_000, 23_000_000_000, 89, "580", 7424, 2.04, 6.251, 192)
RTX4090 = Gpu("RTX 4090", 24_000_000_000, 22_000_000_000, 89, "580", 16384, 2.52, 10.501, 384)

MACHINES = {  # class of the processor, cores, card
    "laptop": ("AVX2", 8, None),
    "small VM": ("AVX512_ICL", 2, None),
    "server": ("AVX512_ICL", 64, None),
    "H100": ("AVX512_ICL", 26, H100),
    "L4": ("AVX512_SKX", 8, L4),
    "consumer card": ("AVX2", 16, RTX4090),
    "2 GB free": ("AVX512_ICL", 26, replace(H100, free=2_000_000_000)),
}

MILLION = 1_000_000
SINGLE = Sizes("search_graph", 1, MILLION, 128, width=40)
BATCH = Sizes("search_graph", 10_000, MILLION, 128, width=40)
SCAN = Sizes("knn", 10_000, MILLION, 128)
ONE_SCAN = Sizes("knn", 1, MILLION, 128)
WIDE_SCAN = Sizes("knn", 1000, 10 * MILLION, 768)
MANY_WANTED = Sizes("knn", 100, MILLION, 128, k=5000)
BUILD = Sizes("build_graph", 0, MILLION, 128)
SMALL_BUILD = Sizes("build_graph", 0, 5000, 128)
TINY = Sizes("pairwise", 10, 100, 64)
MATRIX = Sizes("pairwise", 10_000, 10_000, 768)
FEW_LISTED = Sizes("rerank", 1, MILLION, 128, width=100)
LISTED = Sizes("rerank", 10_000, MILLION, 128, width=100)

# machine, call, whether the device has the points -> backend and method
EXPECTED = [
    *(("laptop", sizes, False, "numba host") for sizes in (SINGLE, BATCH, SCAN, BUILD, TINY, MATRIX, MANY_WANTED)),
    *(("small VM", sizes, False, "numba host") for sizes in (SINGLE, BATCH, SCAN, BUILD, WIDE_SCAN, LISTED)),
    *(("server", sizes, False, "numba host") for sizes in (SINGLE, BATCH, SCAN, BUILD, WIDE_SCAN, TINY)),
    # One query of a graph is over before a kernel has begun, wherever the points are; so is whatever is small.
    *((name, SINGLE, there, "numba host") for name in ("H100", "L4", "consumer card") for there in (False, True)),
    *((name, TINY, False, "numba host") for name in ("H100", "L4", "consumer card", "2 GB free")),
    *((name, FEW_LISTED, True, "numba host") for name in ("H100", "L4", "consumer card")),
    *((name, SMALL_BUILD, False, "numba host") for name in ("H100", "L4", "consumer card")),
    # One query scans a million rows at the speed of memory: the card's, if it has them, and else not worth the way.
    *((name, ONE_SCAN, False, "numba host") for name in ("H100", "L4", "consumer card")),
    *((name, ONE_SCAN, True, "cupy resident") for name in ("H100", "L4", "consumer card")),
    # Batches go to the card: certified scans even if the points must be brought, searches of a graph if it has it.
    *((name, SCAN, False, "cupy upload") for name in ("H100", "L4", "consumer card", "2 GB free")),
    *((name, SCAN, True, "cupy resident") for name in ("H100", "L4", "consumer card")),
    *((name, BATCH, True, "cupy resident") for name in ("H100", "L4", "consumer card")),
    *((name, BATCH, False, "numba host") for name in ("H100", "L4", "consumer card")),
    *((name, BUILD, False, "cupy upload") for name in ("H100", "L4", "consumer card", "2 GB free")),
    *((name, MANY_WANTED, True, "cupy resident") for name in ("H100", "L4", "consumer card")),
    # A mask that allows few rows makes a scan small and a graph's pool large.
    *((name, ONE_SCAN._replace(allowed=1000), True, "numba host") for name in ("H100", "L4", "consumer card", "2 GB free")),
    *((name, SCAN._replace(allowed=500_000), False, "cupy upload") for name in ("H100", "L4", "consumer card")),
    *((name, SCAN._replace(allowed=100), False, "numba host") for name in ("H100", "L4", "laptop", "small VM", "server")),
    ("H100", BATCH._replace(m=100), True, "numba host"),
    ("H100", BATCH._replace(m=100, allowed=20_000), True, "cupy resident"),
    ("H100", LISTED, False, "numba host"),
    ("H100", LISTED, True, "cupy resident"),
    ("H100", MATRIX, False, "cupy upload"),
    # 38 GB of points: in pieces through a card of 24, not through 2 GB behind 26 cores.
    ("L4", WIDE_SCAN, False, "cupy tiled"),
    ("consumer card", WIDE_SCAN, False, "cupy tiled"),
    ("H100", WIDE_SCAN, True, "cupy resident"),
    ("2 GB free", WIDE_SCAN, False, "numba host"),
    ("2 GB free", BUILD._replace(n=10 * MILLION), False, "numba host"),
]


def machine(name: str) -> list[Profile]:
    isa, cores, card = MACHINES[name]
    found = [of_processor(backend, isa, cores) for backend in ("numba", "numpy")]
    return found if card is None else [*found, of_card("cupy", card)]


@pytest.mark.parametrize(("name", "sizes", "there", "wanted"), EXPECTED)
def test_the_choice(name, sizes, there, wanted):
    found = plan(sizes, machine(name), resident={"cupy"} if there else ())
    assert f"{found.backend} {found.method}" == wanted, json.dumps(found.json(), indent=1)


def test_every_machine_is_asked():
    assert {name for name, *_ in EXPECTED} == set(MACHINES)


def test_a_plan_tells_its_reasons_and_all_it_left():
    found = plan(SCAN, machine("H100"))
    assert {option.backend for option in found.alternatives} == {"numba", "numpy"}
    assert [option.seconds for option in found.alternatives] == sorted(option.seconds for option in found.alternatives)
    assert "to it and back" in found.reason
    assert "numba would take" in found.reason
    assert json.loads(json.dumps(found.json()))["measured"] is None
    assert told("knn", options(SCAN, machine("laptop")), wish="told by the test").reason.startswith("told by the test; ")


def test_what_does_not_fit_is_never_taken_and_says_why():
    found = plan(BUILD._replace(n=10 * MILLION), machine("2 GB free"))
    left = next(option for option in found.alternatives if option.backend == "cupy")
    assert left.seconds == NEVER
    assert left.reason == "the points take 7.84 GB, the device has 2 GB free"
    assert json.loads(json.dumps(found.json()))["alternatives"][-1]["seconds"] is None


def test_corrections_turn_a_plan_and_are_told():
    profiles = machine("H100")
    [way] = (way for way in options(ONE_SCAN, profiles, resident={"cupy"}) if way.backend == "cupy")
    factor = {way.key("knn"): 4.0}
    before, after = (plan(ONE_SCAN, profiles, resident={"cupy"}, corrections=given) for given in ({}, factor))
    assert (before.backend, after.backend) == ("cupy", "numba")
    left = next(option for option in after.alternatives if option.backend == "cupy")
    assert left.seconds == pytest.approx(4 * before.seconds)
    assert "4 times what was predicted" in left.reason


def test_fewer_rows_allowed_take_less_to_scan_and_more_to_walk():
    profile = machine("laptop")[0]
    scans, walks = (
        [seconds(amounts(sizes._replace(allowed=allowed)), profile) for allowed in (-1, 500_000, 50_000, 5_000)]
        for sizes in (SCAN, BATCH)
    )
    assert scans == sorted(scans, reverse=True)
    assert walks == sorted(walks)


def test_the_first_of_equals_is_taken():
    one = of_processor("numba", "AVX2", 2)
    assert [way.backend for way in ordered("knn", options(SCAN, [one, replace(one, backend="twin")]), {})] == ["numba", "twin"]


@pytest.mark.parametrize("sizes", [SINGLE, BATCH, SCAN, MANY_WANTED, BUILD, MATRIX, LISTED, SCAN._replace(coded=False)])
@pytest.mark.parametrize("name", MACHINES)
def test_more_work_takes_longer(name, sizes):
    for profile in machine(name):
        for field in ("m", "n", "d", "width"):
            grown = [sizes._replace(**{field: getattr(sizes, field) * factor}) for factor in (1, 2, 4)]
            taken = [seconds(amounts(one), profile) for one in grown]
            assert all(a <= b for a, b in itertools.pairwise(taken)), (field, taken)
        assert seconds(amounts(sizes), profile) > 1 / profile.rate("calls")


def test_more_threads_are_no_slower_and_a_card_does_not_care():
    for profile in machine("H100"):
        taken = [seconds(amounts(SCAN), profile.with_threads(threads)) for threads in (1, 2, 4, 16, 64)]
        assert taken == sorted(taken, reverse=True)
        assert (taken[0] == taken[-1]) == (profile.device == "gpu")


def test_unknown_ops_have_no_costs():
    with pytest.raises(ValueError, match="no costs are known of 'sort'"):
        amounts(Sizes("sort", 1, 1, 1))


@pytest.mark.parametrize("isa", [*CLASSES, "something new"])
def test_every_class_has_a_profile_with_its_source(isa):
    for backend in ("numba", "numpy"):
        profile = of_processor(backend, isa, 2)
        assert all(rate > 0 for rate in profile.rates)
        assert "measured" in profile.source
        assert ("assumed" in profile.source) == (isa != "AVX512_ICL")


@pytest.mark.parametrize("capability", [*TENSOR, 52, 87, 121, 200])
def test_every_card_has_a_profile(capability):
    profile = of_card("cupy", replace(H100, capability=capability))
    assert all(rate > 0 for rate in profile.rates)
    assert profile.source == "predicted for H100 SXM; nothing was measured"


def test_a_cards_peaks_are_those_of_its_data_sheet():
    rates = of_card("cupy", H100).rates
    assert rates.int8 / 0.4 == pytest.approx(1979e12, rel=0.1)
    assert rates.streamed / 0.72 == pytest.approx(3350e9, rel=0.01)
    assert rates.float32 / 0.75 == pytest.approx(67e12, rel=0.01)
    assert of_card("cupy", L4).rates.int8 / 0.4 == pytest.approx(242e12, rel=0.05)
    assert of_card("cupy", L4).rates.streamed / 0.72 == pytest.approx(300e9, rel=0.01)


def test_measured_profiles_go_before_guesses_but_not_across_devices():
    guess = of_processor("numba", "AVX2", 8)
    measured = Profile("numba", "cpu", Amounts(*range(1, len(KINDS) + 1)), "measured")
    found = known({"numba": measured}, guess)
    assert (found.rates, found.threads, found.source) == (measured.rates, 8, "measured")
    assert known({"numba": replace(measured, device="gpu")}, guess) is guess
    assert known({}, guess) is guess
