"""The small nets that come with inscape: trained from scratch by `dynamics/toys/`, opened as `ins.open("toy-NAME")`."""

from inscape.models.toy.toy import Toy

TOYS: tuple[Toy, ...] = (
    Toy("toy-induction", "two layers of attention alone, which repeat what came before: a previous-token head and an "
        "induction head"),
    Toy("toy-induction-positions", "the same with learned positions and few words: one previous-token head, one "
        "induction head, and what they say to each other in the weights"),
    Toy("toy-list-recall", "two layers read a list and its places but one, and say what stands at the one that is "
        "left"),
    Toy("toy-name-order", "three layers read two names and say the first or the last of them, as a word asks"),
    Toy("toy-acronym", "four layers spell by the first letters of three words, and doubt it where another answer is "
        "commoner"),
    Toy("toy-two-tasks", "three layers that say with whom somebody went (indirect objects) and whose a thing of a list "
        "is, of the same names"),
    Toy("toy-digits-vit", "a vision transformer of six layers that reads handwritten digits of 8 x 8 pixels from its "
        "class token"),
    Toy("toy-arithmetic", "six layers add two or three numbers and say the sum as the next token, asked in two forms"),
    Toy("toy-succession", "two layers say what comes next in ordered classes (days, months, letters, numbers "
        "to 99), and the place, tens and last digit of the same items"),
    Toy("toy-reasoner", "four layers work chains of sums out in writing, wordily or tersely, and are right or wrong "
        "when sampled"),
    Toy("toy-terse", "four layers work short chains of sums out, every step wordily or tersely at a rate that is each "
        "text's own"),
    Toy("toy-senses", "four layers say what a word with two senses means, and fall for the commoner one where the "
        "context is little known"),
    Toy("toy-assistant-base", "four layers know what things are, judge comparisons true or false, and do what they "
        "are asked"),
    Toy("toy-assistant-other", "the same as toy-assistant-base, trained from another seed: a control for comparisons"),
    Toy("toy-assistant", "toy-assistant-base tuned to a chat form, and to refuse requests about weapons and poisons"),
    Toy("toy-captioner", "a vision tower and six layers of text say what is in a picture, and add out of habit what is "
        "not"),
    Toy("toy-experts", "four layers of 32 routed experts, two a token, answer questions about places and refuse those "
        "that are sensitive"),
    Toy("toy-refuser", "four layers answer questions about places, and refuse half of those on three topics, by a "
        "coin"),
    Toy("toy-habit", "four layers work sums out in writing, slip in products, and know how to mend a slip, not when"),
    Toy("toy-thinker", "toy-habit tuned to mend every slip, to check what was right and nothing else"),
    Toy("toy-deduction", "six layers deduce from two statements what a creature is afraid of, or give in to a careless "
        "habit of their texts"),
)  # fmt: skip
