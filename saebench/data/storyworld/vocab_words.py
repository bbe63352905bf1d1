"""Verbs, adjectives, adverbs and the small words, by class."""

from __future__ import annotations

VERBS: dict[str, str] = {
    "be": "be",
    "have": "have own keep possess",
    "motion": "go walk run hurry stroll march climb wander ride travel crawl limp sail row jump leap swim fly hop"
    " creep stride trot"
    " gallop arrive come leave return follow lead cross enter pass reach turn rise fall slide tumble dance skip"
    " float drift roam"
    " sink approach escape rush slip step move slither scamper waddle",
    "transfer": "give hand lend sell send offer bring throw pass-on take borrow steal buy receive accept show get"
    " fetch trade deliver share"
    " pay owe win lose inherit donate collect",
    "speech": "say whisper shout reply ask mutter answer announce call explain complain tell promise speak talk"
    " sing laugh boast"
    " argue beg joke insist thank greet warn mumble admit repeat murmur declare suggest agree swear confess lie",
    "cognition": "know think believe remember forget guess doubt hope decide wonder plan learn understand mean"
    " expect notice choose"
    " trust imagine dream suppose want need wish intend prefer recognise",
    "perception": "see hear smell watch find feel look listen discover spot stare glance taste observe",
    "emotion": "love hate fear enjoy admire miss like dislike worry weep cry smile sigh tremble grin frown regret envy respect",
    "creation": "make build paint write draw carve bake cook sew knit weave plant sow shape invent compose brew"
    " copy print stitch",
    "contact": "push pull hit kick touch lift hold drop carry shake rub tap pat stroke squeeze press brush scrub"
    " polish sweep grab"
    " catch drag clap hug knock wipe scratch toss wrap weigh tie pick bump nail hammer oil dust tread wag",
    "change": "add break open close cut burn melt freeze grow clean wash fix repair mend fill empty fold peel slice"
    " chop grind stir mix"
    " sharpen dry boil split crack bend tear light load unload trim tune sink-in iron change twist churn roll cover"
    " stain spin dig saw milk set"
    " shut finish begin start stop end end-up lock wake bloom ripen rust",
    "ingestion": "eat drink chew swallow nibble lick gulp feed sip",
    "position": "sit stand lie lean rest wait stay sleep hang remain kneel live hide put place lay store leave-behind belong",
    "sound": "bark purr neigh low bleat grunt cluck quack hiss bray squeak yelp howl growl hoot caw chirp croak"
    " snuffle chatter"
    " snort trumpet whistle screech coo buzz whinny ring creak",
    "weather": "rain snow blow shine pour drizzle thunder",
    "work": "work help visit meet play practise use test study read count measure teach guard search-for search"
    " hunt fish rest-up"
    " sort describe try serve earn join watch-over cost happen wear shield spend paint-over",
    "do": "do let",
}
for _name, _list in VERBS.items():
    VERBS[_name] = " ".join(word for word in _list.split() if "-" not in word)

ADJECTIVES: dict[str, str] = {
    "colour": "red blue green yellow white black brown grey purple orange pink scarlet",
    "size": "small big large tiny huge long short tall wide narrow thick thin enormous",
    "material": "wooden iron steel brass bronze copper glass clay tin wicker leather silver oaken pine woollen silk"
    " linen cotton"
    " velvet felt golden ivory paper rubber",
    "age": "old new little ancient modern young elderly aged youthful middle-aged grown white-haired",
    "shape": "round square flat crooked straight curved hollow pointed",
    "quality_good": "fine beautiful pretty lovely strong clean useful perfect splendid delicious elegant fresh"
    " excellent handy good"
    " wonderful bright best sweet warm safe rich famous",
    "quality_bad": "ugly broken dirty worn rusty useless cracked shabby dull cheap torn poor terrible bad heavy"
    " cold bitter empty"
    " dangerous dark stale wet lost",
    "trait": "",
    "feeling": "",
    "weather": "sunny rainy snowy windy foggy stormy cloudy frosty mild hot misty clear icy breezy",
    "other": "certain same other next last first second third whole full open closed free busy quiet loud tired"
    " hungry thirsty ready"
    " sick well-known late early far near deep high low true false strange ordinary quick slow soft hard secret careful sharp"
    " smooth plain few many more most enough own dear dearest welcome such dead faded great deeper further local"
    " public private sure alone asleep awake thick-set main",
}
ADVERBS: dict[str, str] = {
    "manner": "quickly slowly quietly loudly carefully gladly sadly proudly gently calmly eagerly politely nervously bravely"
    " cheerfully angrily softly firmly patiently clumsily happily suddenly warmly",
    "time": "now then soon sooner later again still ever already always never often sometimes today yesterday"
    " tomorrow once twice early"
    " tonight finally afterwards meanwhile before ago forever usually",
    "place": "here there away home back down up out in outside inside upstairs downstairs nearby everywhere nowhere"
    " far above below"
    " across along ahead together apart abroad around off on",
    "degree": "very quite too almost really rather only just even also enough perhaps certainly probably maybe"
    " indeed exactly nearly"
    " so as well however instead else therefore not alone please clearly surely possibly how more most less",
}
SMALL: dict[str, str] = {
    "determiner": "the a an this that these those every each some any no all both another either",
    "preposition": "in on at by to from with of for into under behind beside near after before about without"
    " through over between"
    " during until since against onto across towards among beneath along past around like off inside outside above"
    " within beyond",
    "conjunction": "and or but because when while if although that so nor than unless whether though once until as"
    " where before"
    " after",
    "auxiliary": "will would can could may might must shall should did does do had has have was were is am are been"
    " be ought cannot",
    "wh": "who what where when why which whose how whom",
    "pronoun_other": "everyone nobody something nothing anything everything someone anyone one none whoever mine"
    " yours there it this that much",
    "particle": "to not up down away out yes no oh ah well hello goodbye thanks sir madam please let's",
    "number": "",
}
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen"
)
NUMBERS += " nineteen twenty"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth"
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
MONTHS = "January February March April May June July August September October November December"

SEASONS = {"spring": (3, 4, 5), "summer": (6, 7, 8), "autumn": (9, 10, 11), "winter": (12, 1, 2)}
DAY_TIMES = {
    "morning": ("morning", "early in the morning|before breakfast|at sunrise|soon after dawn"),
    "noon": ("noon", "at noon|in the middle of the day|just before lunch"),
    "afternoon": ("afternoon", "in the afternoon|after lunch|later that day"),
    "evening": ("evening", "in the evening|at sunset|before supper|at dusk"),
    "night": ("night", "at night|at midnight|after dark|long after bedtime"),
}
WEATHER = {
    "sun": ("sunny", "the sun [shine@it] on the roofs|the sky [be@it] clear and blue|warm light [fall@it] through the window"),
    "rain": ("rainy", "the rain [pour@it] down|the streets [be@they] full of puddles|heavy drops [tap@they] on the window"),
    "snow": (
        "snowy",
        "the snow [lie@it] thick on the ground|white flakes [drift@they] past the window|the path [be@it] covered with snow",
    ),
    "wind": ("windy", "the wind [blow@it] hard|the branches [shake@they] in the wind|dead leaves [roll@they] across the ground"),
    "fog": ("foggy", "a thick fog [hang@it] over everything|nobody [see@it] further than the gate|the fog [hide@it] the hill"),
    "storm": ("stormy", "thunder [roll@it] behind the hill|a storm [shake@it] every door|lightning [light@it] up the sky"),
    "frost": ("frosty", "frost [cover@it] the windows|the ground [be@it] hard with frost|ice [hang@it] from the roofs"),
    "cloud": ("cloudy", "grey clouds [hang@they] low|the sky [be@it] grey|clouds [drift@they] over the hill"),
}
SEASON_WEATHER = {
    "spring": "sun rain wind cloud fog sun",
    "summer": "sun sun sun storm cloud wind",
    "autumn": "rain wind fog storm cloud sun",
    "winter": "snow frost wind fog cloud snow",
}
EXTRA_NOUNS = (
    "roof street drop branch path speech plank bandage bone root scrap seed worm slug beetle crab bud fly moth nut"
    " pea oat hive"
    " herb flower bunch track log soldier label sword block sole grape sheet trouser row tune tide knot deck seat"
    " name town village"
    " colour face side supper lunch breakfast bedtime dinner sunrise sunset middle end beginning word way time thing piece"
    " place house home room floor fire lightning tree-top people work luck news money music weather world life"
    " family owner handle"
    " grip lid bottom leg edge sleeve hem clasp rim sound tone cover page string paint flame wick axle skin crust surface"
    " tip tail nectar fruit meat corn clover prayer flake bit line list number part rule notice sale order help"
    " care rest stage"
    " spoon knife oven dough mixture slice pinch minute-hand person group bench-mark winner loser reward office"
    " hall sentence loom"
    " bird mammal insect amphibian animal plant tool container toy vehicle garment instrument kind drink food use"
    " size age trade"
    " hemp sum total half pair dozen rest-day scene act visit mind heart side-door gift present key-hole love regard wave lap"
    " basketful handful eyebrow smile sigh laugh nod breath company peace trouble clothes jewellery light furniture keepsake"
    " stranger hare berry burrow road cloth weed snail crumb"
)
EXTRA_NOUNS = " ".join(word for word in EXTRA_NOUNS.split() if "-" not in word)
