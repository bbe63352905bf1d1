"""Names, occupations, traits and relations."""

from __future__ import annotations

WOMEN = (
    "Marta Odile Wren Ilse Petra Nadia Bryony Hester Lotte Sabine Tilda Una Vera Ysolde Agnes Beatrix Clara Dora Edith Flora"
    " Greta Hilda Ida Junia Karin Lena Mabel Nora Olive Polly Rosa Selma Thea Ursel Viola Wilma Zora Anja Brigid Celia Delia"
    " Elsa Freya Gwen Hanna Imogen Jutta Kirsten Leonie Mina"
).split()
MEN = (
    "Anselm Bruno Casper Dmitri Edgar Fergus Gustav Hugo Ivo Jasper Klaus Lorenz Magnus Nils Oskar Piers Quentin Rufus Stellan"
    " Tobias Ulrich Viktor Walter Yorick Zeno Albin Bertram Conrad Dario Emil Felix Gregor Harald Ingmar Joren Konrad Lukas"
    " Milo Nestor Otto Pavel Roland Sander Tilman Urban Valentin Wendel Arlo Basil Cedric"
).split()

OCCUPATIONS = """
baker|bakery|[bake] bread before sunrise|container
miller|mill|[grind] corn into flour|container
smith|smithy|[hammer] hot iron|tool
teacher|school|[teach] the children to read|reading
fisher|harbour|[mend] the nets and [wait] for the tide|tool
gardener|garden|[plant] seeds in straight rows|tool
librarian|library|[put] the books back on their shelves|reading
carpenter|workshop|[saw] planks and [build] tables|tool
tailor|shop|[sew] coats and trousers|garment
shepherd|hill|[watch] over the sheep|tool
sailor|pier|[tie] knots and [scrub] the deck|vehicle
doctor|hospital|[look] after the sick|container
nurse|hospital|[change] bandages all day|garment
painter|attic|[mix] colours and [paint] faces|keepsake
farmer|farm|[milk] the cows at dawn|vehicle
cook|kitchen|[stir] the soup and [taste] it often|container
innkeeper|inn|[pour] drinks for travellers|container
weaver|workshop|[weave] cloth on a tall loom|garment
potter|workshop|[shape] wet clay into bowls|container
clockmaker|workshop|[repair] old clocks|furniture
musician|theatre|[practise] the same tune for hours|instrument
actor|theatre|[learn] long speeches by heart|garment
judge|courtroom|[listen] to both sides|reading
priest|chapel|[ring] the bell for prayers|instrument
stonemason|quarry|[cut] blocks of granite|tool
beekeeper|orchard|[collect] honey from the hives|container
brewer|brewery|[roll] heavy barrels|container
ferrykeeper|river|[row] people across the water|vehicle
astronomer|observatory|[study] the stars at night|reading
shoemaker|shop|[nail] soles onto boots|garment
jeweller|shop|[set] stones in silver|jewel
winemaker|vineyard|[tread] the grapes|container
lampkeeper|lighthouse|[light] the great lamp|light
courier|station|[carry] letters from door to door|reading
groom|stable|[brush] the horses|tool
dairyhand|dairy|[churn] the butter|container
launderer|laundry|[wash] sheets and shirts|garment
hunter|forest|[follow] tracks through the trees|tool
woodcutter|forest|[split] logs for the fire|tool
mayor|square|[make] speeches about the new bridge|jewel
scholar|library|[copy] faded pages|reading
toymaker|workshop|[carve] small wooden soldiers|toy
apothecary|shop|[grind] herbs in a bowl|container
florist|greenhouse|[tie] flowers into bunches|keepsake
ropemaker|harbour|[twist] hemp into rope|tool
guard|castle|[stand] beside the gate all night|tool
historian|museum|[write] labels for old swords|reading
welldigger|well|[dig] deeper every week|tool
"""
"""Name, place of work, what they do there, and the class of thing they own."""

TRAITS_GOOD = "brave kind honest patient cheerful clever generous gentle loyal polite wise calm careful humble witty tidy curious"
TRAITS_BAD = "proud lazy greedy stubborn grumpy cruel careless jealous rude selfish vain clumsy nervous suspicious gloomy noisy"
FEELINGS = {
    "joy": "happy glad delighted overjoyed pleased merry cheered grateful",
    "sadness": "sad lonely miserable sorry heartbroken disappointed homesick",
    "anger": "angry furious annoyed cross bitter",
    "fear": "afraid scared worried frightened anxious alarmed",
    "surprise": "surprised amazed astonished puzzled startled",
    "calm": "relieved content peaceful satisfied",
}

RELATIONS = {
    "kin": "sister brother mother father aunt uncle cousin daughter son grandmother grandfather niece nephew",
    "bond": "friend neighbour partner rival guest pupil lodger",
}
FEMALE_KIN = "sister mother aunt cousin daughter grandmother niece".split()
MALE_KIN = "brother father uncle cousin son grandfather nephew".split()

AGES = {"child": (6, 13), "young": (17, 29), "middle": (30, 59), "old": (60, 91)}
AGE_WORDS = {
    "child": "little young small",
    "young": "young youthful",
    "middle": "middle-aged grown",
    "old": "old elderly white-haired aged",
}
TOPICS = {
    "market": ("food container jewel", "market square shop"),
    "voyage": ("vehicle reading light", "harbour pier lighthouse river"),
    "harvest": ("tool food vehicle", "field farm orchard vineyard barn"),
    "feast": ("food container garment", "inn kitchen tavern castle"),
    "repair": ("tool furniture vehicle", "workshop smithy mill bridge"),
    "school": ("reading toy keepsake", "school library museum yard"),
    "music": ("instrument garment light", "theatre church tower square"),
    "theft": ("jewel keepsake container", "castle cellar shop attic"),
    "moving": ("furniture container garment", "attic cellar kitchen station"),
    "winter": ("garment light toy", "hill pond forest cave"),
    "garden": ("tool food container", "garden greenhouse orchard well"),
    "treasure": ("jewel reading tool", "ruin cave beach quarry"),
}
"""What a document is about: the classes of things in it, and where it happens."""
