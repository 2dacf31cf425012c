"""What is tried is what pays, by measured cost and acceptance; what is lost by it stays bounded."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_worker.speculation.acceptance import Kept, Prior, Rates, survival
from argosy_worker.speculation.control import INCOME, LEAST, START, Controller
from argosy_worker.speculation.cost import REFRESH, StepCost
from argosy_worker.speculation.draft_model import Spent
from argosy_worker.speculation.lengths import NOTHING, Costs, Offer, best_lengths, standards


def costs(requests=1, plain=1.0, row=0.1, model=0.0):
    return Costs(requests, plain, lambda d: row * d, lambda together: model)


def powers(p, count):
    return [p ** (i + 1) for i in range(count)]


# ------------------------------------------------------------------ lengths


@pytest.mark.parametrize(
    ("p", "row", "length"),
    [(0.9, 0.1, 8), (0.9, 0.2, 7), (0.5, 0.1, 2), (0.1, 0.2, 0), (0.9, 1.0, 0), (0.0, 0.0, 0), (1.0, 0.0, 8)],
)
def test_a_draft_is_as_long_as_it_pays(p, row, length):
    assert best_lengths([Offer(powers(p, 8))], costs(row=row), 100) == [length]


def test_the_draft_models_own_time_counts():
    offer = Offer(powers(0.7, 8), by_model=True)
    lengths = [best_lengths([offer], costs(row=0.01, model=share), 100)[0] for share in (0.01, 0.05, 0.1, 0.3, 0.8)]
    assert lengths == sorted(lengths, reverse=True)
    assert (lengths[0] >= 5, lengths[-1]) == (True, 0)
    behind = Offer(powers(0.7, 8), by_model=True, catching_up=3.0)
    assert best_lengths([behind], costs(row=0.01, model=0.01), 100) == [0]


def test_in_company_only_the_promising_ones_are_tried():
    offers = [Offer(powers(0.95, 8)), Offer(powers(0.2, 8)), NOTHING, Offer(powers(0.6, 8))]
    first, second, third, fourth = best_lengths(offers, costs(requests=4, row=0.06), 100)
    assert first > fourth > second == third == 0


@given(
    st.lists(st.lists(st.floats(0, 1), max_size=8), min_size=1, max_size=8),
    st.floats(0.001, 1),
    st.floats(0, 0.5),
    st.integers(0, 20),
)
def test_the_chosen_lengths_are_the_best_of_all_prefixes(chances, plain, row, budget):
    offers = [Offer(survival(Prior(chance.__getitem__), range(len(chance)))) for chance in chances]
    cost = costs(len(offers), plain, row)
    lengths = best_lengths(offers, cost, budget)
    assert sum(lengths) <= budget
    assert all(n <= len(o.survival) for n, o in zip(lengths, offers, strict=True))

    margin, dearer = standards(len(offers))

    def rate(tried):
        gain = sum(sum(o.survival[:n]) for o, n in zip(offers, tried, strict=True))
        return (len(offers) + gain) / (plain + dearer * row * sum(tried))

    best = rate(lengths)
    if any(lengths):
        assert best > margin * rate([0] * len(offers))
        for i, n in enumerate(lengths):
            for other in {max(0, n - 1), min(n + 1, len(offers[i].survival))}:
                tried = [*lengths[:i], other, *lengths[i + 1 :]]
                if sum(tried) <= budget and any(tried):
                    assert rate(tried) <= best * (1 + 1e-9)


# ------------------------------------------------------------------ acceptance


def test_rates_follow_what_happens_and_begin_with_the_parents_word():
    worker = Rates(Prior(lambda _: 0.5), trust=4, keep=0.99)
    for _ in range(200):
        worker.add(3, right=True)
    mine = Rates(worker, trust=3, keep=0.9)
    assert mine.of(3) == worker.of(3) > 0.9
    assert mine.of(4) == 0.5
    for _ in range(20):
        mine.add(3, right=False)
    assert mine.of(3) < 0.35
    for _ in range(20):
        mine.add(3, right=True)
    assert mine.of(3) > 0.8


def test_promises_are_believed_as_far_as_former_ones_were_kept():
    kept = Kept()
    assert kept.share == 1.0
    for _ in range(300):
        kept.add(3.0, 2)
    assert kept.share == pytest.approx(2 / 3, abs=0.01)
    for _ in range(300):
        kept.add(2.0, 4)
    assert kept.share == 1.0  # what was better than promised makes nothing likelier than it is
    for _ in range(300):
        kept.add(0.0, 0)
    assert kept.share == 1.0


# ------------------------------------------------------------------ cost


def test_cost_is_learnt_from_noisy_steps():
    rng, cost = random.Random(1), StepCost()
    for _ in range(300):
        for n in (1, 16):
            drafted = rng.choice([0, 0, 1, 2, 4, 8])
            seconds = 0.018 + 0.002 * (n - 1) + (0.003 + 0.002 * drafted if drafted else 0.0)
            cost.add(n, drafted, seconds * rng.uniform(0.95, 1.05) * (5 if rng.random() < 0.01 else 1))
    for n, plain in ((1, 0.018), (16, 0.048)):
        assert cost.plain(n) == pytest.approx(plain, rel=0.1)
        assert cost.added(n, plain)(4) == pytest.approx(0.011, rel=0.35)
    assert cost.added(1, 0.018)(0) == 0


def test_what_was_not_measured_is_not_known():
    cost = StepCost()
    assert cost.plain(1) is None
    cost.add(1, 0, 0.02)
    cost.add(16, 0, 0.05)
    assert (cost.plain(1), cost.plain(2), cost.plain(15), cost.plain(8)) == (0.02, None, 0.05, None)
    assert cost.added(1, 0.02)(8) == pytest.approx(0.02)  # until measured, a row is taken to cost an eighth of a step


def test_until_measured_a_row_of_a_draft_is_taken_to_cost_nearly_what_a_request_does():
    cost = StepCost()
    cost.add(16, 0, 8.0)
    assert cost.added(16, 8.0)(1) == pytest.approx(8.0 / 16 / 4)  # what a request costs is not known
    cost.add(2, 0, 1.0)
    assert cost.added(16, 8.0)(1) == pytest.approx(0.9 * 8.0 / 16)  # less than it is worth: it will be tried
    cost.add(16, 0, 4.0)
    plain = cost.plain(16)
    assert cost.added(16, plain)(1) == pytest.approx(0.9 * (plain - 1.0) / 14)
    cost = StepCost()
    cost.add(2, 0, 1.0)
    cost.add(16, 0, 1.0)
    assert cost.added(16, 1.0)(1) == pytest.approx(1.0 / 16 / 8)  # requests cost nothing, so rows hardly do


def test_an_old_measurement_is_made_anew():
    cost = StepCost()
    cost.add(1, 0, 0.02)
    for _ in range(REFRESH):
        assert not cost.stale(1)
        cost.add(1, 4, 0.03)
    assert cost.stale(1)
    cost.add(1, 0, 0.02)
    assert not cost.stale(1)


# ------------------------------------------------------------------ the whole, against a machine that is simulated


class Machine:
    """Steps that take what they take, and drafts that are right as often as is said; time is counted, not spent."""

    def __init__(self, seed, *, row=0.1, fixed=0.0, model=0.0, by_model=False, prompt=0, request=0.05):
        self.request = request  # what one more adds to a step
        self.rng, self.row, self.model, self.by_model = random.Random(seed), row, model, by_model
        self.fixed = fixed  # what drafts add to a step, however few they are
        self.control = Controller(model_share=model if by_model else None)
        self.prompt = prompt  # rows that the draft model has not seen when it is first asked
        self.forwards = 0  # of the draft model
        self.worker = Rates(Prior(lambda _: 0.7), trust=4, keep=0.99)
        self.seconds = self.plain_seconds = 0.0
        self.drafted = 0

    def step(self, requests, right, *, noise=0.1):
        """`requests` streams, whose tokens are guessed right with this probability."""
        plain = 1.0 + self.request * (requests - 1)
        lengths = [0] * requests
        behind = 0.1 * self.model * self.prompt
        if self.control.open_to(requests) and (not self.by_model or self.control.asks_model(requests, 8)):
            offer = Offer(survival(self.worker, range(8)), self.by_model, catching_up=behind / 50, behind=behind)
            lengths = self.control.lengths([offer] * requests, 64)
        hits = 0
        for length in lengths:
            for j in range(length):
                hit = self.rng.random() < right
                self.worker.add(j, right=hit)
                if not hit:
                    break
                hits += 1
        guessing = max(lengths) * self.model if self.by_model else 0.0
        catching_up = behind if self.by_model and any(lengths) else 0.0
        self.forwards += max(lengths) if self.by_model else 0
        for _ in range(max(lengths) if self.by_model else 0):
            self.control.model_steps.add(requests, 0, self.model)
        added = self.row * sum(lengths) + self.fixed * any(lengths)
        seconds = (plain + added) * self.rng.uniform(1 - noise, 1 + noise) + guessing + catching_up
        spent = Spent(guessing, catching_up)
        self.control.learn(requests, sum(lengths), hits, seconds, spent=spent, alone=True)
        self.seconds += seconds
        self.plain_seconds += plain * (1 + hits / requests)
        self.drafted += sum(lengths)

    @property
    def speed(self):
        """Against the same tokens without drafts."""
        return self.plain_seconds / self.seconds


@pytest.mark.parametrize("requests", [1, 4, 16])
@pytest.mark.parametrize("right", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("row", [0.1, 0.5])
def test_where_it_does_not_pay_hardly_anything_is_lost(requests, right, row):
    machine = Machine(1, row=row)
    for _ in range(1000):
        machine.step(requests, right)
    assert machine.speed > 0.97


@pytest.mark.parametrize("requests", [4, 16])
@pytest.mark.parametrize("right", [0.5, 0.67, 0.75])
def test_guesses_that_are_mostly_right_and_still_lose_are_rare_in_company(requests, right):
    """A row of a draft takes nearly as long as another request's: as on processors, with a dozen streams."""
    machine = Machine(8, row=0.9, request=0.9)
    for _ in range(5):
        machine.step(1, right)
    for _ in range(4000):
        machine.step(requests, right)
    assert machine.drafted < 0.05 * 4000 * requests
    assert machine.speed > 0.99


def test_a_draft_model_as_slow_as_the_model_itself_is_left_alone():
    machine = Machine(2, row=0.02, model=1.0, by_model=True)
    for _ in range(1000):
        machine.step(1, 1.0)
    assert machine.speed > 0.97
    assert machine.drafted < 30


@pytest.mark.parametrize("requests", [1, 4, 16])
@pytest.mark.parametrize(("model", "right"), [(1.0, 1.0), (0.9, 0.9), (0.5, 0.2), (0.1, 0.0), (0.03, 0.0)])
def test_a_draft_model_that_does_not_pay_hardly_runs(requests, model, right):
    """Neither one as slow as the model nor one that is wrong: in the long run less than one step in a hundred."""
    machine = Machine(5, row=0.05, model=model, by_model=True, prompt=100)
    for _ in range(10_000):
        machine.step(requests, right)
    assert machine.forwards <= 100
    assert machine.speed > 0.97
    if model > 0.8 and requests == 1:
        assert machine.forwards == 0, "by its measured cost it could not pay if it were always right"


def test_a_draft_model_that_begins_to_pay_is_noticed():
    machine = Machine(6, row=0.02, model=0.05, by_model=True)
    for _ in range(3000):
        machine.step(1, 0.0)
    before, drafted = machine.forwards, machine.drafted
    assert before <= 100
    for _ in range(4000):
        machine.step(1, 0.9)
    assert machine.drafted - drafted > 2000


def test_of_many_requests_that_nothing_is_found_for_few_steps_are_searched():
    control, searched = Controller(), 0

    def step(offer):
        tried = control.lengths([offer] * 4, 32) if control.open_to(4) else None
        drafted = sum(tried or [])
        control.learn(4, drafted, drafted, 1.0 + 0.01 * drafted, spent=Spent(), alone=True)
        return tried

    control.learn(4, 0, 0, 1.0, spent=Spent(), alone=True)
    for _ in range(1000):
        searched += step(NOTHING) is not None
    assert searched < 250
    sure = Offer([1.0] * 8)
    assert any(step(sure) for _ in range(6)), "at most some steps pass until what pays is found"
    assert sum(bool(step(sure)) for _ in range(40)) >= 39, "and while it pays no step is left out"


def test_where_it_pays_it_is_used():
    machine = Machine(3)
    for _ in range(300):
        machine.step(1, 0.9)
    assert machine.speed > 2
    machine = Machine(3, row=0.01, model=0.03, by_model=True)
    for _ in range(300):
        machine.step(1, 0.7)
    assert machine.speed > 2


def test_drafts_that_cost_more_than_a_token_together_pay_for_many_requests():
    machine = Machine(7, row=0.001, fixed=0.3, model=0.03, by_model=True)  # of eight tokens a step, one is worth 0.17
    for _ in range(500):
        machine.step(8, 0.7)
    assert machine.drafted > 500 * 8
    assert machine.speed > 1.5


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("before", [0, 30])
def test_a_draft_model_that_pays_is_found_whatever_luck_it_has_at_first(seed, before):
    """Rows that cost little, eight requests at once, from the start or after some steps of one."""
    machine = Machine(seed, row=0.015, model=0.03, by_model=True, request=0.0, prompt=100)
    for _ in range(before):
        machine.step(1, 0.7)
    drafted = machine.drafted
    for _ in range(200):
        machine.step(8, 0.7)
    assert machine.drafted - drafted > 150 * 8


def test_a_change_for_the_better_is_noticed_and_one_for_the_worse_too():
    machine = Machine(4)
    for _ in range(500):
        machine.step(1, 0.0)
    before = machine.drafted
    for _ in range(500):
        machine.step(1, 0.95)
    assert machine.drafted - before > 1000
    before, lost = machine.drafted, machine.seconds - machine.plain_seconds
    for _ in range(500):
        machine.step(1, 0.0)
    assert machine.drafted - before < 500
    assert (machine.seconds - machine.plain_seconds) - lost < 60


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 8), st.floats(0.5, 2)), max_size=60))
def test_the_purse_bounds_what_can_be_lost(history):
    """However wrong the estimates: drafts end where the purse is empty, and it is filled by what they brought."""
    control, spent, steps = Controller(), 0.0, 0
    for requests, drafted, seconds in history:
        tried = drafted if control.open_to(requests) else 0
        control.learn(requests, tried, 0, seconds, spent=Spent(), alone=True)
        plain = control.steps.plain(requests)
        steps += 1
        if tried and plain:
            spent += control.steps.added(requests, plain)(tried) / plain
    assert control.purse <= START + INCOME * steps + 1e-9
    if control.purse < LEAST:
        assert not any(control.open_to(n) for n in (1, 2, 3, 4))
