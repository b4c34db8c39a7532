"""Nouns in six languages, and prompts that end where one of them follows; no prompt holds a word of instruction.

    translation   Français: "pomme" - Deutsch: "Apfel"\\nFrançais: "chien" - Deutsch: "      -> Hund
    repetition    Deutsch: "Apfel" - Deutsch: "Apfel"\\nDeutsch: "Hund" - Deutsch: "         -> Hund
    cloze         "___" : animal qui aboie et garde la maison. Réponse : "                  -> chien

Every prompt shows four other words first, drawn by a seed. What the answer would be in a language that nobody asked for
is known too: that is how a lens sees which language a model passes through on the way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inscape.core.errors import InputError

NAMES = {"en": "English", "fr": "Français", "de": "Deutsch", "es": "Español", "zh": "中文", "ja": "日本語"}
ENGLISH_NAMES = {"en": "English", "fr": "French", "de": "German", "es": "Spanish", "zh": "Chinese", "ja": "Japanese"}
WORDS = """
dog chien Hund perro 狗 犬; cat chat Katze gato 猫 ネコ; horse cheval Pferd caballo 马 馬;
bird oiseau Vogel pájaro 鸟 鳥; fish poisson Fisch pescado 鱼 魚; house maison Haus casa 房子 家;
tree arbre Baum árbol 树 木; door porte Tür puerta 门 ドア; window fenêtre Fenster ventana 窗户 窓;
key clé Schlüssel llave 钥匙 鍵; milk lait Milch leche 牛奶 ミルク; egg œuf Ei huevo 鸡蛋 卵;
apple pomme Apfel manzana 苹果 リンゴ; cheese fromage Käse queso 奶酪 チーズ;
knife couteau Messer cuchillo 刀 ナイフ; bed lit Bett cama 床 ベッド; street rue Straße calle 街道 道;
bridge pont Brücke puente 桥 橋; car voiture Auto coche 汽车 車; wind vent Wind viento 风 風;
head tête Kopf cabeza 头 頭; eye œil Auge ojo 眼睛 目; hair cheveux Haar pelo 头发 髪;
tooth dent Zahn diente 牙齿 歯; child enfant Kind niño 孩子 子供; boy garçon Junge chico 男孩 少年;
king roi König rey 国王 王様; teacher enseignant Lehrer profesor 老师 先生; money argent Geld dinero 钱 お金;
newspaper journal Zeitung periódico 报纸 新聞; word mot Wort palabra 词 言葉;
game jeu Spiel juego 游戏 ゲーム; dream rêve Traum sueño 梦 夢; shirt chemise Hemd camisa 衬衫 シャツ;
shoe chaussure Schuh zapato 鞋子 靴; coat manteau Mantel abrigo 外套 コート;
dress robe Kleid vestido 裙子 ドレス; kitchen cuisine Küche cocina 厨房 台所;
room chambre Zimmer habitación 房间 部屋; wall mur Wand pared 墙 壁; leaf feuille Blatt hoja 叶子 葉;
bear ours Bär oso 熊 クマ; rabbit lapin Kaninchen conejo 兔子 ウサギ; pig cochon Schwein cerdo 猪 ブタ;
sheep mouton Schaf oveja 羊 ヒツジ; duck canard Ente pato 鸭子 アヒル;
butterfly papillon Schmetterling mariposa 蝴蝶 チョウ; frog grenouille Frosch rana 青蛙 カエル;
mouse souris Maus ratón 老鼠 ネズミ; onion oignon Zwiebel cebolla 洋葱 タマネギ;
garlic ail Knoblauch ajo 大蒜 ニンニク; butter beurre Butter mantequilla 黄油 バター;
beer bière Bier cerveza 啤酒 ビール; bag sac Tasche bolsa 包 袋; clock horloge Uhr reloj 钟 時計;
pencil crayon Bleistift lápiz 铅笔 鉛筆; candle bougie Kerze vela 蜡烛 ロウソク;
toy jouet Spielzeug juguete 玩具 おもちゃ; shop magasin Laden tienda 商店 店;
lightning éclair Blitz relámpago 闪电 稲妻; smoke fumée Rauch humo 烟 煙; ice glace Eis hielo 冰 氷;
skin peau Haut piel 皮肤 肌; finger doigt Finger dedo 手指 指; neck cou Hals cuello 脖子 首;
sister sœur Schwester hermana 姐姐 姉; brother frère Bruder hermano 哥哥 兄;
neighbor voisin Nachbar vecino 邻居 隣人; thief voleur Dieb ladrón 小偷 泥棒; sword épée Schwert espada 剑 剣;
bell cloche Glocke campana 铃 鐘
"""
CLOZE = {
    "fr": ('"___" : {} Réponse : "', {
        "dog": "animal qui aboie et garde la maison.", "cat": "animal qui miaule et chasse les souris.",
        "horse": "grand animal sur lequel on monte.", "bird": "animal qui a des ailes et vole dans le ciel.",
        "fish": "animal qui nage dans l'eau.", "door": "on l'ouvre pour entrer dans une pièce.",
        "window": "vitre dans un mur, par laquelle on regarde dehors.", "key": "petit objet qui ouvre une serrure.",
        "milk": "liquide blanc que donne la vache.", "egg": "la poule le pond.",
        "apple": "fruit rond, rouge ou vert, qui pousse sur un arbre.", "cheese": "aliment fait avec du lait.",
        "knife": "outil avec lequel on coupe le pain.", "bed": "meuble dans lequel on dort.",
        "bridge": "on le traverse pour passer une rivière.", "car": "véhicule à quatre roues.",
        "eye": "partie du corps avec laquelle on voit.", "tooth": "partie dure de la bouche qui sert à mâcher.",
        "king": "homme qui règne sur un pays et porte une couronne.",
        "teacher": "personne qui donne des cours à l'école.",
        "money": "on en a besoin pour acheter des choses.", "newspaper": "on y lit les nouvelles chaque matin.",
        "dream": "histoire que l'on voit en dormant.", "shoe": "objet que l'on porte au pied.",
        "kitchen": "pièce où l'on prépare les repas.", "wall": "côté d'une pièce, fait de pierre ou de brique.",
        "rabbit": "petit animal aux longues oreilles.", "frog": "petit animal vert qui saute et vit près de l'eau.",
        "clock": "objet qui montre l'heure.", "pencil": "objet en bois avec lequel on dessine.",
        "candle": "objet de cire qui donne de la lumière.", "toy": "objet avec lequel joue un enfant.",
        "smoke": "nuage gris qui monte du feu.", "ice": "eau gelée.", "thief": "personne qui prend le bien des autres.",
        "bell": "objet de métal qui sonne dans la tour.",
    }),
    "zh": ("“___”：{}答案：“", {
        "dog": "会叫、会看家的动物。", "cat": "会抓老鼠的动物。", "horse": "人可以骑的大动物。",
        "bird": "有翅膀、会在天上飞的动物。", "fish": "在水里游的动物。", "door": "进房间时要打开它。",
        "window": "墙上的玻璃，可以看到外面。", "key": "用来开锁的小东西。", "milk": "母牛给的白色液体。",
        "egg": "母鸡下的东西。", "apple": "长在树上的圆圆的水果，红色或绿色。", "cheese": "用奶做成的食物。",
        "knife": "用来切面包的工具。", "bed": "用来睡觉的家具。", "bridge": "过河时要走的建筑。",
        "car": "有四个轮子的交通工具。", "eye": "用来看东西的身体部分。", "tooth": "嘴里用来咬东西的硬的部分。",
        "king": "统治国家、戴王冠的男人。", "teacher": "在学校上课的人。", "money": "买东西时需要它。",
        "newspaper": "每天早上可以在上面看新闻。", "dream": "睡觉时看到的故事。", "shoe": "穿在脚上的东西。",
        "kitchen": "做饭的房间。", "wall": "用石头或砖做成的，房间的一面。", "rabbit": "耳朵很长的小动物。",
        "frog": "会跳、住在水边的绿色小动物。", "clock": "告诉人时间的东西。", "pencil": "用木头做的，用来画画的东西。",
        "candle": "用蜡做的，会发光的东西。", "toy": "孩子玩的东西。", "smoke": "火上升起的灰色的云。",
        "ice": "水冻成的东西。", "thief": "拿走别人东西的人。", "bell": "塔里会响的金属东西。",
    }),
}  # fmt: skip


@dataclass(frozen=True)
class LanguagePrompts:
    """One prompt a concept, and the language in which its answer is asked for.

    prompts: texts, or rows of token ids. shown: languages that stand in the prompts, the target's included: only
    another one can come from the model alone.
    """

    name: str
    prompts: Sequence[Any]
    concepts: tuple[str, ...]
    target: str
    shown: tuple[str, ...]


def nouns(languages: Sequence[str] = tuple(NAMES)) -> dict[str, dict[str, str]]:
    """{concept: {language: word}} of some seventy nouns; concepts are named by their English word.

    Raises: InputError for a language that is not there.
    """
    unknown = [code for code in languages if code not in NAMES]
    if unknown:
        raise InputError(f"there are no nouns in {', '.join(unknown)}; the languages are {', '.join(NAMES)}.")
    made = {}
    for line in WORDS.replace("\n", " ").split(";"):
        forms = dict(zip(NAMES, line.split(), strict=True))
        made[forms["en"]] = {code: forms[code] for code in languages}
    return made


def translation(
    words: Mapping[str, Mapping[str, str]],
    source: str,
    target: str,
    concepts: Sequence[str] | None = None,
    *,
    shots: int = 4,
    names: Mapping[str, str] = NAMES,
    seed: int = 0,
) -> LanguagePrompts:
    """Lists of words with their translation; with `target` equal to `source` the word is repeated.

    concepts: those that are asked for, all of `words` when None; the words shown before are drawn from all of `words`
    for each, and none of them is the one asked for. Raises: InputError for too few words or an unknown language.
    """
    chosen = tuple(words) if concepts is None else tuple(concepts)
    _check(words, chosen, (source, target), shots)

    def line(concept: str) -> str:
        return f'{names[source]}: "{words[concept][source]}" - {names[target]}: "'

    prompts = [
        "\n".join([*(f'{line(shown)}{words[shown][target]}"' for shown in some), line(concept)])
        for concept, some in zip(chosen, _drawn(tuple(words), chosen, shots, seed), strict=True)
    ]
    name = f"{source} → {target}" if source != target else f"repeat {target}"
    return LanguagePrompts(name, prompts, chosen, target, tuple(dict.fromkeys((source, target))))


def cloze(
    words: Mapping[str, Mapping[str, str]],
    language: str,
    concepts: Sequence[str] | None = None,
    *,
    shots: int = 4,
    seed: int = 0,
) -> LanguagePrompts:
    """What a thing is, in French or Chinese ("fr", "zh"), before the word for it in that language.

    Concepts without a definition are left out. Raises: InputError as `translation`.
    """
    if language not in CLOZE:
        raise InputError(f"there are no definitions in {language!r}; there are some in {', '.join(CLOZE)}.")
    form, said = CLOZE[language]
    chosen = tuple(c for c in (words if concepts is None else concepts) if c in said)
    _check(words, chosen, (language,), shots)
    pool = tuple(c for c in words if c in said)
    close = "”" if "“" in form else '"'
    prompts = [
        "\n".join([*(f"{form.format(said[s])}{words[s][language]}{close}" for s in some), form.format(said[concept])])
        for concept, some in zip(chosen, _drawn(pool, chosen, shots, seed), strict=True)
    ]
    return LanguagePrompts(f"cloze {language}", prompts, chosen, language, (language,))


def definitions(language: str) -> dict[str, str]:
    """{concept: what it is}, the same in every language that has them: parallel sentences."""
    return dict(CLOZE[language][1])


def _drawn(pool: tuple[str, ...], chosen: tuple[str, ...], shots: int, seed: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [[str(c) for c in rng.permutation([c for c in pool if c != concept])[:shots]] for concept in chosen]


def _check(
    words: Mapping[str, Mapping[str, str]], chosen: tuple[str, ...], languages: tuple[str, ...], shots: int
) -> None:
    missing = [c for c in chosen if c not in words] or [x for c in chosen for x in languages if x not in words[c]]
    if missing:
        raise InputError(f"{missing[0]!r} is not among the words; give concepts and languages that `words` holds.")
    if len(words) <= shots or not chosen:
        raise InputError(f"{len(words)} words, {len(chosen)} asked for: prompts that show {shots} others need more.")
