"""A dozen short English texts to read a model with, written for this project (Apache-2.0).

    "The ferry leaves the north pier at seven. On foggy mornings the captain waits until the lighthouse on the far
    side can be seen, and the passengers drink coffee in the small hall by the water. ..."

About sixty tokens each, on unlike subjects, with names that return, numbers, a list, a recipe and a few lines of talk,
so that a language model has something to predict. They teach nothing and state no facts worth testing.
"""

from inscape.core.errors import InputError

TEXTS = (
    "The ferry leaves the north pier at seven. On foggy mornings the captain waits until the lighthouse on "
    "the far side can be seen, and the passengers drink coffee in the small hall by the water. Nobody minds. "
    "The ferry has never been more than an hour late, and the island has never been in a hurry.",
    "When Maria and Tom went to the market, Tom gave the basket to Maria. She filled it with apples, two "
    "loaves of bread and a jar of honey. On the way home it began to rain, so Maria gave the basket back to "
    "Tom and opened the umbrella.",
    "To make the soup, cut two onions and three carrots into small pieces and fry them in butter until the "
    "onions are soft. Add a litre of water, a spoon of salt and a handful of barley. Let the soup simmer for "
    "forty minutes, then stir in the parsley and serve it hot.",
    "A river carries more sand when it runs fast. Where the valley widens the water slows down, the sand "
    "sinks, and a bar grows in the middle of the stream. After a few years willows stand on the bar, their "
    "roots hold the sand, and the river has to choose a new way around the island it has made.",
    '"Did you find the key?" asked Anna. "Not yet," said her brother, "but I found the box it opens." He put '
    'the box on the table. It was made of dark wood, and something inside it moved when he shook it. "Then we'
    ' need the key," said Anna, "and we need it before dinner."',
    "The function takes a list of numbers and returns their mean. If the list is empty, it raises an error, "
    "because the mean of nothing is not zero. The test calls the function with one number, with two numbers "
    "and with none, and checks that the error names the function that was called.",
    "In the winter of that year the lake froze for the first time since the mill was built. Children skated "
    "between the boats, and the baker sold hot rolls from a sledge. In March the ice broke with a sound like "
    "thunder, and the boats were free again.",
    "Monday: clean the filters. Tuesday: check the pumps. Wednesday: read the meters. Thursday: clean the "
    "filters again. Friday: write the report. The plant runs by itself for most of the week, but the list on "
    "the wall has five lines, and every line has the name of somebody beside it.",
    "Bees find their way by the sun, and when the sun is hidden they use the pattern of light in the open "
    "sky. A bee that has found a field of clover returns to the hive and dances. The angle of the dance tells"
    " the other bees the direction, and its length tells them how far they have to fly.",
    "The old piano in the school had three broken keys, and every teacher who played it learned to leave them"
    " out. One spring the piano was repaired. For weeks the songs sounded wrong to everyone, although now, "
    "for the first time, all the notes were there.",
    "Dear Mr Hall, thank you for your letter of the fourth of May. We have looked into the matter of the "
    "missing parcel. It was sent on the second of May, it reached the depot on the third, and there it still "
    "is, because the label was lost. We will send the parcel again tomorrow. Yours sincerely, Ruth Hall.",
    "The train from the coast arrives at noon and leaves again at ten past. In those ten minutes the driver "
    "walks the length of the platform, the guard counts the empty seats, and the cat that lives under the "
    "clock inspects every open door. No one has ever seen the cat get on the train.",
)  # fmt: skip


def plain_text(n: int | None = None) -> list[str]:
    """The first `n` texts, always the same ones in the same order; all twelve without `n`.

    Raises: InputError for a number that is not there.
    """
    if n is not None and not 1 <= n <= len(TEXTS):
        raise InputError(
            f"plain_text({n}): there are {len(TEXTS)} texts.\n  ask for 1 to {len(TEXTS)}, or give texts of your own."
        )
    return list(TEXTS[:n])
