"""Nouns by class, with what each class allows to be done to it."""

from __future__ import annotations

THINGS: dict[str, str] = {
    "tool": "hammer saw axe shovel rake chisel ladder rope needle spade file anvil wrench drill brush broom hook sickle pick"
    " trowel plough spindle wheel chain nail screw net oar whip paddle compass ruler magnet pulley",
    "container": "basket bucket barrel jar bottle box chest bag sack jug bowl kettle pot cup crate trunk tin vase"
    " pan tray purse"
    " pitcher cauldron casket flask satchel",
    "furniture": "table chair bench shelf cupboard bed stool desk drawer wardrobe cradle couch mirror curtain"
    " carpet clock screen",
    "garment": "coat hat scarf glove boot cloak shirt apron belt shawl sock cap dress jacket mitten bonnet slipper robe veil",
    "jewel": "ring necklace brooch bracelet crown pearl pendant medal locket buckle button coin",
    "instrument": "drum flute fiddle harp trumpet lute bell whistle horn banjo cello rattle gong",
    "reading": "book letter map diary newspaper poem scroll ticket postcard notebook atlas almanac songbook ledger",
    "toy": "doll kite ball puppet marble top puzzle hoop swing",
    "light": "lamp lantern candle torch beacon chandelier taper",
    "vehicle": "cart boat wagon sled raft bicycle ship ferry carriage wheelbarrow canoe train",
    "food": "apple pear plum carrot onion potato turnip cabbage egg loaf pie cake sausage biscuit pancake bun"
    " cherry fig pumpkin"
    " lemon tomato peach radish pickle tart waffle dumpling muffin quince walnut",
    "keepsake": "shell feather stone leaf stick acorn fossil ribbon key flag painting umbrella pipe pillow blanket fan",
}
"""Things one can count, by class. No noun stands in two classes."""

STUFF: dict[str, str] = {
    "food": "bread cheese butter honey rice flour sugar salt soup porridge jam ham pepper ginger cinnamon barley bacon yeast",
    "drink": "water milk tea coffee juice cider broth lemonade vinegar syrup cocoa",
    "fabric": "wool silk linen cotton leather velvet felt canvas",
    "matter": "wood iron copper silver gold glass clay paper brass straw wax granite tar sand ink oil",
    "nature": "rain snow wind fog ice mud smoke dust grass hay moss thunder sunlight frost hail",
}
"""Things one cannot count."""

MATERIALS: dict[str, str] = {
    "tool": "iron steel wooden brass bronze",
    "container": "wooden copper glass clay tin wicker leather silver",
    "furniture": "wooden oaken pine iron",
    "garment": "woollen silk linen cotton leather velvet felt",
    "jewel": "golden silver copper bronze ivory",
    "instrument": "wooden brass silver copper",
    "toy": "wooden tin paper rubber",
    "light": "brass copper iron glass",
    "vehicle": "wooden iron",
    "keepsake": "",
    "reading": "",
    "food": "",
}

ANIMALS = """
dog barked barks bark|meat and bones|mammal|yard
cat purred purrs purr|fish and mice|mammal|kitchen
horse neighed neighs neigh|hay and oats|mammal|stable
cow lowed lows low|grass|mammal|meadow
goat bleated bleats bleat|leaves and bark|mammal|hill
sheep bleated bleats bleat|grass|mammal|hill
pig grunted grunts grunt|roots and scraps|mammal|yard
hen clucked clucks cluck|corn|bird|yard
duck quacked quacks quack|weeds and snails|bird|pond
goose hissed hisses hiss|grass and corn|bird|pond
donkey brayed brays bray|hay and thistles|mammal|stable
rabbit squeaked squeaks squeak|clover and carrots|mammal|meadow
fox yelped yelps yelp|hens and berries|mammal|forest
wolf howled howls howl|deer and hares|mammal|forest
bear growled growls growl|honey and fish|mammal|forest
mouse squeaked squeaks squeak|crumbs and cheese|mammal|cellar
owl hooted hoots hoot|mice and moths|bird|barn
crow cawed caws caw|seeds and worms|bird|field
sparrow chirped chirps chirp|seeds|bird|garden
frog croaked croaks croak|flies|amphibian|pond
hedgehog snuffled snuffles snuffle|slugs and beetles|mammal|garden
squirrel chattered chatters chatter|nuts and acorns|mammal|forest
deer snorted snorts snort|buds and grass|mammal|forest
swan trumpeted trumpets trumpet|weeds|bird|river
otter whistled whistles whistle|fish and crabs|mammal|river
badger grunted grunts grunt|worms and roots|mammal|forest
parrot screeched screeches screech|seeds and fruit|bird|kitchen
pigeon cooed coos coo|peas and corn|bird|square
seal barked barks bark|fish|mammal|beach
bee buzzed buzzes buzz|nectar|insect|garden
cricket chirped chirps chirp|grass and leaves|insect|meadow
pony whinnied whinnies whinny|hay and apples|mammal|stable
"""
"""Name, sound (past, third person, base), food, kind and home of each animal."""

PETS = "dog cat goat hen duck goose donkey rabbit parrot pigeon pony hedgehog squirrel otter sheep pig".split()
PET_NAMES = (
    "Biscuit Patch Nettle Bramble Whisker Pebble Soot Thimble Clover Mallow Tansy Fidget Bobbin Crumb Muffet Rascal"
    " Ginger Smudge"
    " Pepperpot Socks Twig Dapple Flint Marrow Noodle Pocket Quill Russet Sorrel Tumble Wink"
).split()

PLANTS = "tree oak willow rose tulip bush vine daisy fern pine thistle lily poppy birch elm hedge nettle reed"
BODY = "hand foot head eye ear arm knee shoulder nose finger tooth back cheek chin elbow"
ABSTRACT = (
    "idea plan dream promise secret story song joke question answer lesson game feast race wedding festival journey"
    " storm mistake"
    " trick bargain quarrel riddle memory wish rumour reason chance habit duty favour prize surprise price debt"
    " noise smell voice"
)
PEOPLE_NOUNS = "child neighbour guest stranger friend traveller visitor customer crowd thief hero villager man woman boy girl"
NATURE = (
    "cloud star moon sun shadow wave puddle spark rock cliff stream rainbow sky ground wall door window gate fence step corner"
)
TIMES = (
    "day night morning evening afternoon week month year hour minute moment spring summer autumn winter noon dusk dawn midnight"
)

PLACES = """
mill in indoors|bakery in indoors|church in indoors|school in indoors|market at outdoors|harbour at outdoors|inn at indoors
library in indoors|farm on outdoors|castle in indoors|barn in indoors|station at outdoors|workshop in indoors|smithy in indoors
garden in outdoors|forest in outdoors|field in outdoors|beach on outdoors|river by outdoors|bridge on outdoors|hill on outdoors
valley in outdoors|meadow in outdoors|cellar in indoors|attic in indoors|kitchen in indoors|tower in indoors|square in outdoors
lighthouse in indoors|orchard in outdoors|stable in indoors|pond by outdoors|cave in outdoors|quarry in outdoors|shop in indoors
theatre in indoors|museum in indoors|hospital in indoors|chapel in indoors|yard in outdoors|brewery in indoors|dairy in indoors
laundry in indoors|pier on outdoors|ruin in outdoors|tavern in indoors|vineyard in outdoors|well by outdoors|canal by outdoors
greenhouse in indoors|observatory in indoors|courtroom in indoors
"""
"""Name, preposition and setting of each place."""

TOWN_HEADS = (
    "Alder Bram Cald Dun Elm Fen Gars Hazel Iver Kes Lan Mar Nor Ott Pel Quen Ros Sel Tarn Under Vel Wes Yar Zel Corn Drey"
).split()
TOWN_TAILS = "ford wick holm mouth bury stead combe dale gate mere ness thorpe".split()
SURNAME_HEADS = (
    "Ash Black Crow Dray Fair Green Hart Kettle Lock Moor North Oak Pen Rook Stone Thorn Under Whit Wind Yarrow"
).split()
SURNAME_TAILS = "bourne croft field ley man more son well wood worth".split()

THING_VERBS: dict[str, str] = {
    "tool": "use sharpen repair clean oil test polish",
    "container": "fill empty wash open close scrub",
    "furniture": "move polish repair paint dust build",
    "garment": "wear fold wash mend iron sew brush",
    "jewel": "polish hide admire clean count",
    "instrument": "play tune practise repair clean",
    "reading": "read study copy open finish",
    "toy": "paint repair toss spin mend",
    "light": "light trim shield clean lift",
    "vehicle": "load push repair paint unload",
    "food": "smell taste peel wrap weigh admire",
    "keepsake": "admire draw hide clean describe",
}
"""What people do to the things of each class."""

PARTS: dict[str, str] = {
    "tool": "handle grip", "container": "lid bottom", "furniture": "leg edge", "garment": "sleeve hem", "jewel": "clasp rim",
    "instrument": "sound tone", "reading": "cover page", "toy": "string paint", "light": "flame wick", "vehicle": "axle side",
    "food": "skin crust", "keepsake": "surface tip",
}  # fmt: skip
