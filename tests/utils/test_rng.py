"""Random streams: endless shuffles."""

from tgsr.utils import rng
from tgsr.utils.rng import Shuffles, generator


def test_shuffles_are_the_permutations_of_their_numbers():
    shuffles = Shuffles(7, seed=3, stream="order")
    drawn = [shuffles[place] for place in range(21)]
    for number in range(3):
        expected = generator(3, "order", number).permutation(7)
        assert drawn[7 * number : 7 * number + 7] == expected.tolist()
    backwards = [shuffles[place] for place in range(20, -1, -1)]
    assert backwards == drawn[::-1]


def test_an_order_is_drawn_once_for_all_its_places(monkeypatch):
    drawn = []

    def counting(*key):
        drawn.append(key)
        return generator(*key)

    monkeypatch.setattr(rng, "generator", counting)
    shuffles = Shuffles(500_000, seed=0, stream="sweep-order")
    places = [*range(499_900, 500_000), *range(500_000, 500_100)]
    items = [shuffles[place] for place in places]
    assert drawn == [(0, "sweep-order", 0), (0, "sweep-order", 1)]
    assert items[100] == generator(0, "sweep-order", 1).permutation(500_000)[0]
