"""What can happen in a tale, as rules: ``a`` acts, ``b`` is somebody else, ``o`` a thing, ``p`` a place."""

from __future__ import annotations

from saebench.data.storyworld.template import add_pool, add_rules

add_pool("manner", "quickly|slowly|quietly|carefully|gladly|proudly|gently|calmly|eagerly|politely|bravely|patiently|happily")
add_pool("sadly", "sadly|slowly|nervously|angrily|quietly")
add_pool("often", "often|always|sometimes|usually|never")
add_pool("later", "soon|later|then|afterwards|after a while|a little later|before long|at last|in the end")
add_pool("very", "very|quite|rather|really|too")
add_pool("nice", "fine|beautiful|lovely|splendid|wonderful|excellent|perfect|useful")
add_pool("nasty", "ugly|dirty|shabby|broken|worn|terrible|useless|dull")
add_pool("cook_tool", "spoon|knife")
add_pool("fabric", "wool|silk|linen|cotton|leather|velvet|felt")
add_pool("nature_one", "cloud|star|shadow|spark|wave|rainbow|shell|leaf|bird")
add_pool("drink", "water|milk|tea|coffee|juice|cider|broth|lemonade|cocoa")
add_pool("dish", "bread|cheese|soup|porridge|ham|bread and butter|bread and jam|rice and peas|soup and bread")
add_pool("joy", "happy|glad|delighted|overjoyed|pleased|merry|grateful")
add_pool("sadness", "sad|lonely|miserable|sorry|heartbroken|disappointed")
add_pool("anger", "angry|furious|annoyed|cross|bitter")
add_pool("fear", "afraid|scared|worried|frightened|anxious|alarmed")
add_pool("surprise", "surprised|amazed|astonished|puzzled|startled")
add_pool("calm", "relieved|content|peaceful|satisfied|calm")
add_pool("walk", "on foot|by cart|by boat|on a horse|with a heavy bag|with a small lamp|without a coat|without a word")
add_pool("body", "hand|head|eye|ear|arm|knee|shoulder|nose|cheek|chin|elbow|back|foot")
add_pool("idea", "idea|plan|dream|promise|secret|story|song|joke|question|riddle|wish|rumour|bargain|surprise")

add_rules("""
# title description
The ( {who} | {person} | {*idea} ) of {town}
The ( {who} | {person} ) and the {*idea}
{a:n} {p:in}
A {weather} {time} in {town}
How {a:n} [find] a {*idea}
# opening description
It [be@it] a {weather} {time} in {season} , and ( the town of | ) {town} [be@it] ( quiet | busy | still asleep | awake early ) .
( One {season} {time} | On a {weather} {time} in {season} ) , something ( strange | ordinary | wonderful | terrible ) \
[happen@p] in {town} .
( Long ago | Many years ago | Not long ago | Once ) , in the town of {town} , there [be@it] a {place:n} that everyone [know@it] .
In {season} , when the {time} [be@it] {weather} , {town} [look@it] ( small | strange | beautiful | empty | old ) .
{wx} , and the people of {town} [stay@they] ( at home | inside | near the fire ) .
It all [begin@p] {place:in} of {town} , on a {weather} {time} .
# intro description
{a:n} [be] {an_age} {job} who [live] in {home} .
There [be] {an_age} {job} in {home} <rel whose name [be] {a:n} > .
{an_age} {job} called {a:n} [live] ( near {place} | in a small house | in {home} | at the end of the street ) .
{a:n} , {an_age} {job} from {home} , [be] {place:in} .
Everyone in {town} [know] {a:m} , {an_age} {job} from {home} .
{place:in} , {a:n} [wait] ( for a friend | for news | ) . {a} [be] {an_age} {job} from {home} .
# intro_child description
{a:n} [be] {an_age} {child} <rel who [live] in {home} > .
There [be] {an_age} {child} in {home} called {a:n} .
{an_age} {child} from {home} , {a:n} , [play] {place:in} .
# trait description
{a} [be] {*very} {trait} .
{a} [be] known in {home} as {an_trait} {person} .
People [say@they] <comp that {a} [be] ( the most {trait} {person} in {home} | {*very} {trait} ) > .
{a} [be] {*often} {trait} , <sub and everyone [know@it] it > .
Nobody [be@it] as {trait} as {a:n} .
# age description
{a} [be] {years} years old .
{a} [have] just turned {years} .
( In spring | In summer | In autumn | Next month | That week ) <fut {a} would [base:be] {years} years old > .
At ( the age of | ) {years} , {a} ( still | already ) [know] every ( street | step | stone | corner | gate | {*nature_one} | \
{place:n} ) in {home} .
{a:n} [be] {years} , but {a} [feel] ( young | old | like a child | older ) .
# elder recall
{a} [be] older than {b:o} .
{b} [be@b] younger than {a:o} .
{a:n} [be] {years} and {b:n} [be@b] {years2} , so {a:n} [be] the older of the two .
# relation description
{a} [be] {b:p} {relation} .
{b:n} [have@b] one {relation} , and that [be@it] {a:n} .
As everyone [know@it] , {a:n} [be] {b:p} {relation} .
# has transfer good
{a} [have] {o:i} .
{a} [own] {o:i} , and {a} [be] ( proud of it | careful with it | never far from it ) .
In {a:p} ( bag | chest | cupboard | house | room ) there [be@it] {o:i} .
{o:i} [stand@o] on {a:p} ( table | shelf | desk ) .
{a} [keep] {o:i} ( under the bed | behind the door | on a shelf | in a box ) .
( The dearest thing | The best thing | All | The only thing ) <rel that {a} ( [own] | [have] ) > [be@it] {o:i} .
{a} [buy] {o:i} for {count} {coins} .
{a} [get] {o:i} as a present from {a:p} ( aunt | uncle | cousin | neighbour | grandmother | grandfather ) .
# haspet description good
{a} [have] {o:i} .
{a:p} {o:n} [be@o] {petcolour} , and its name [be@it] {petname} .
A {o:n} [follow@o] {a:o} everywhere . {a} [call] it {petname} .
# find transfer good
{place:in} , {a} [find] {o:i} .
{a} [find] {o:i} ( under a bench | behind the door | beside the wall | near the gate | in a corner ) and [keep] it .
<sub While {a} [be] looking for ( a {*nature_one} | {a:p} {*idea} | {count} {coins} | {beastsp} | a friend | {a:p} hat ) , > \
{a} [discover] {o:i} . {a} ( [take] it home | [keep] it | [pick] it up {*manner} ) .
( Something | Something ( bright | heavy | {colour} | small | strange | {*nice} ) ) [lie@it] {place:in} . It [be@it] {o:i} . \
{a} ( [pick] it up | [take] it | [carry] it home | [keep] it ) .
{a} [stop] . {o:i} [lie@o] ( on the ground | beside a {*nature_one} | among the {beastsp} | in a puddle | {place:in} ) , and \
( nobody | no one | not one person ) ( [come@it] for it | [want@it] it | [look@it] for it ) . ( Now | So now | From then on | \
That {time} ) it [be@o] {a:p} own .
# give transfer good
{a} [give] {b:o} {o:d} .
{a} [give] {o} to {b:o} .
{a} [hand] {o} to {b:o} ( with a smile | without a word | as a present | ) .
{*later} {a} [decide] to [base:give] {o} to {b:o} .
<sub Because {b:n} [be@b] {*very} ( sad | lonely | kind | poor | tired ) , > {a} [give] {b:o} {o:d} .
{b} [receive@b] {o:d} from {a:o} .
{b} [thank@b] {a:o} for {o:d} and [carry@b] it ( home | away | upstairs ) .
From that day on , {o:d} [belong@o] to {b:m} . It [be@o] a present from {a:o} .
# sell transfer
{a} [sell] {o} to {b:o} for {count} {coins} .
{b} [buy@b] {o:d} from {a:o} for {count} {coins} .
{b} [pay@b] {a:o} {count} {coins} and [take@b] {o:d} ( home | away ) .
{a} [trade] {o} for {b:p} {count} {fruits} . Now {b:n} [own@b] {o:d} .
# steal transfer bad
{a} [steal] {o:d} from {b:o} .
{*later} , <sub while {b:n} [be@b] asleep , > {a} [take] {o:d} and [hide] it .
Nobody [see@it] {a:o} <sub when {a} [take] {o:d} from {b:p} ( house | room | bag | table ) > .
{b} [look@b] for {o:d} everywhere , but {a:n} [have] stolen it .
# lose transfer bad
{a} [lose] {o:d} {place:in} .
{a} [drop] {o:d} {place:in} and [not notice] it .
{a} [leave] {o:d} behind {place:in} .
{o:d} [fall@o] out of {a:p} ( bag | cart | hand ) {place:in} , <sub and {a} [walk] on > .
# putin action
{a} [put] {o} {place:in} .
{a} [hide] {o} {place:in} , <sub where nobody [look@it] > .
{a} [leave] {o} {place:in} ( for the night | until morning | ) .
{*later} {a} [carry] {o} {place:to} and [put] it ( down | in a corner | behind the door ) .
# fetch action
{a} [go] {place:to} and [get] {o:d} .
{o:d} [be@o] still {place:in} . {a} [find] it there .
{a} [remember] <comp that {o:d} [be@o] {place:in} > , <sub so {a} [go] there > .
# move motion
( Then | Soon | {*later} , | ) {a} [go] {p:to} .
{a} [walk] {p:to} ( {*walk} | ) .
{a} [leave] {place} and [hurry] {p:to} .
{*later} , {a} [come] {p:to} .
{a} [leave] {place} , <sub because it [be@it] ( closed | cold | too quiet | too loud | dark ) there , > ( and [go] {p:to} \
instead | and [try] {p} | for {p} ) .
{a} [want] to [base:see] {p} , <sub so {a} ( [set] out | [leave] | [hurry] there | [go] ) ( at once | {*walk} | that {time} | \
in the {time} | on {weekday} ) > .
# moveboth motion
{a} and {b:n} [go@they] {p:to} .
Together {a} and {b:n} [walk@they] {p:to} .
{a} [follow] {b:o} {p:to} .
{a} [take] {b:o} {p:to} ( by the hand | {*walk} | ) .
{b} [lead@b] {a:o} {p:to} .
# weathertalk weather
{wx} .
It [be@it] still {weather} , and {wx} .
{wx} , <sub so {a} [stay] inside for {count} hours > .
Outside {wx} .
<sub When {a} [look] out of the window , > {wx} .
{wx} , but {a} [not notice] it .
""")

add_rules("""
# timepass description
( It [be@it] soon | Soon it [be@it] ) {time} .
{whenword} , {a} [be] {place:in} again .
{count} ( days | hours | weeks ) later it [be@it] {time} , and {a} [be] {place:in} .
( Then | At last | ) {time} [come@it] , and {wx} .
# nextday description
The next ( day | morning ) , the weather [be@it] {weather} .
On {weekday} , {a} [wake] up early . {wx} .
{count} days [pass@they] . On {weekday} it [be@it] {weather} .
# work action
{whenword} {a} [go] {wp:to} , <sub because {a} [be] {an_job} > .
Like every {job} , {a} ( {*often} | ) {does} .
{wp:in} , {a} {does} .
{a} {does} , <sub for that [be@it] the work of {an_job} > .
As {an_job} , {a} [know] {wp} better than anyone .
# use action
{a} [$v] {o} ( {*manner} | ) .
{*later} {a} [begin] to [base:$v] {o} .
{a} [sit] ( down | ) ( {place:in} | {where1} | with {b:o} ) and [$v] {o} ( for {count} ( hours | minutes ) | {*manner} | ) .
{a} [want] to [base:$v] {o} , but ( {a} [be] ( {*very} tired | too busy | not ready | {*sadness} ) | {wx} | it [be@it] {time} \
| {b:n} [need@b] it ) .
{a} [$v] {o} , <sub while {b:n} [watch@b] {*manner} > .
{a} [not $v] {o} ( at all | that day | again | ) .
<passive {o:d} [be@o] ( old | dirty | in use | ready ) > , <sub so {a} [$v] it {*manner} > .
# describe description
{o:d} [be@o] {*very} ( {*nice} | {*nice} | {*nasty} ) .
The {part} of {o:d} [be@it] ( {*nice} | {*nasty} | cold | smooth | warm ) .
{o:f} [be@o] older than {a:o} .
{a} [look] at {o:d} . It [be@o] {adj} , with a {*nice} {part} .
Nobody [know@it] how old {o:d} [be@o] .
<passive {o:d} [be@o] made by {an_any} in {anytown} > .
# eat action good
{a} [eat] {*dish} and [drink] {*drink} .
{a} [drink] a cup of {*drink} {place:in} .
For ( supper | lunch | breakfast ) {a} and {b:n} [share@they] {count} {fruits} .
{a} [cook] {*dish} for {b:o} .
{a} [pour] {*drink} into a ( cup | jug | bowl ) , and {b} [drink@b] it {*manner} .
{a} [be] so hungry <comp that {a} [eat] {count} {fruits} > .
# count description
{a} [count] {count} {fruits} {place:in} .
There [be@they] {count} {colour} {fruits} {where1} .
{a} [have] {n1} {fruits} . {b} [give@b] {a:o} {n2} more . Now {a} [have] {n3} .
{a} [have] {n3} {fruits} . {a} [give] {n2} of them to {b:o} . Now {n1} [be@they] left .
{a} [put] {n1} {fruits} {where1} and {b:n} [put@b] {n2} ( beside them | more there | on top ) , which [make@it] {n3} .
# animal action
The {beast} [$sound@it] ( loudly | softly | twice | again | all {time} | ) .
{acolour} {beast} [sit@it] {beastplace} and [$sound@it] .
{beasts} [eat@they] {beastfood} .
{a} [hear] <comp how a {beast} [$sound@it] {beastplace} > .
{a} [feed] the {beast} with {beastfood} .
A {beast} [run@it] past {a:o} and [hide@it] {beastplace} .
# petact action
{o} [$sound@o] ( loudly | softly | twice | again | all {time} | ) .
{o} [run@o] after {a:o} .
{a} [pat] {o} on the head .
{a} [feed] {o} with {petfood} .
{o} [sleep@o] {place:in} .
{o} [be@o] {*very} hungry , <sub so {a} [give] it {petfood} > .
# joy feeling good
{a} [be] {*joy} .
{a} [smile] , <sub because {reason} > .
{a} [be] {*very} {*joy} <sub because {reason} > .
{a} [laugh] and [sing] ( all the way home | all {time} | ) .
<sub Since {reason} , > {a} [feel] {*joy} .
# grief feeling bad
{a} [be] {*sadness} .
{a} [weep] , <sub because {reason} > .
{a} [be] {*very} {*anger} <sub because {reason} > .
<sub Since {reason} , > {a} [feel] {*sadness} .
{a} [not smile] for {count} days .
# mood_other feeling
{a} [feel] ( {*calm} | {*fear} | {*surprise} ) ( that {time} | ) .
{a} [be] {*surprise} , <sub for {a} [not expect] {b:o} so early > .
{a} [be] {*fear} of ( the dark | the storm | {b:o} | mice | deep water ) .
{a} [touch] {a:p} {*body} and [tremble] .
{a} [like] {b:o} , but {a} [not say] so .
{a} [trust] {b:o} <sub because {b:n} [be@b] {trait2} > .
# think description
{a} [think] about {b:o} .
{a} [hope] <comp that <fut {b} would [base:come] back > ( soon | before {time2} | ) > .
{a} [know] <comp that {b} [be@b] {trait2} > .
{a} [wonder] <comp <may whether {b} [have@b] a {*idea} > > .
{a} [remember] an old {*idea} and [smile] .
<may Perhaps {b:n} [have@b] a {*idea} , > but {a} [not ask] .
<if If {b:n} [come@b] , > {a} would [base:be] {*joy} .
<must {a} must [base:wait] ( for {b:o} | until {time2} | ) > .
""")
