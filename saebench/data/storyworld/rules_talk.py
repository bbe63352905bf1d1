"""What people say to each other, and what the text recalls of its own past."""

from __future__ import annotations

from saebench.data.storyworld.template import add_pool, add_rules

add_pool("hello", "good morning|good evening|hello|good day|welcome")
add_pool("oh", "oh|ah|well|yes|no|indeed")
add_pool("tone", "with a smile|with a frown|with a sigh|in a low voice|in a loud voice|after a while|at last|again")

add_rules("""
# askwhere speech
<q:a:b <? Where [be@o] {o:d} ? > > ( [ask] {a:n} | {a} [ask] ) .
<q:a:b <? Have {b} seen {o:d} ? > > ( [ask] {a:n} | {a} [ask] ) ( {*tone} | ) .
{a} [turn] to {b:o} . <q:a:b <? Where <past did {b} [base:put] {o:d} ? > > >
# tellwhere speech
<q:b:a It [be@o] {where} , > ( [say@b] {b:n} | {b} [say@b] ) .
<q:b:a {*oh} , {o:d} [be@o] {where} , > ( [answer@b] {b:n} | {b} [answer@b] ) ( {*tone} | ) .
<q:b:a {a} [fut:find] it {where} , > ( [reply@b] {b:n} | {b} [reply@b] ) .
# askwho speech
<q:a:b <? Who [have@it] {o:d} now ? > > ( [ask] {a:n} | {a} [ask] ) .
<q:a:b <? Whose [be@it] {o:f} ? > > ( [ask] {a:n} | {a} [ask] ) ( {*tone} | ) .
<q:a:b <? Who [own@it] {o:f} ? > > {a} [want] to [base:know] .
# tellwho speech
<q:b:a It [belong@o] to {c:m} , > ( [say@b] {b:n} | {b} [say@b] ) .
<q:b:a {*oh} , {c:n} [have@c] it , > ( [answer@b] {b:n} | {b} [answer@b] ) ( {*tone} | ) .
<q:b:a <past {c:n} [take@c] it > , > ( [reply@b] {b:n} | {b} [reply@b] ) .
# tellme speech
<q:b:a It [be@o] mine , > ( [say@b] {b:n} | {b} [say@b] ) .
<q:b:a {b} [have@b] it , > ( [answer@b] {b:n} | {b} [answer@b] ) ( {*tone} | ) .
# askwork speech
<q:a:b <? What [be@it] {b:p} trade ? > > ( [ask] {a:n} | {a} [ask] ) .
<q:a:b <? What work [do@b] {b} [base:do] ? > > ( [ask] {a:n} | {a} [ask] ) .
# tellwork speech
<q:b:a {b} [be@b] {an_job2} , > ( [say@b] {b:n} | {b} [say@b] ) .
<q:b:a {b} [work@b] as {an_job2} , > ( [answer@b] {b:n} | {b} [answer@b] ) ( {*tone} | ) .
# askhome speech
<q:a:b <? Where [do@b] {b} [base:live] ? > > ( [ask] {a:n} | {a} [ask] ) .
<q:a:b <? Where [be@b] {b} from ? > > ( [ask] {a:n} | {a} [ask] ) .
# tellhome speech
<q:b:a {b} [live@b] in {home2} , > ( [say@b] {b:n} | {b} [say@b] ) .
<q:b:a {b} [be@b] from {home2} , > ( [answer@b] {b:n} | {b} [answer@b] ) ( {*tone} | ) .
# askage speech
<q:a:b <? How old [be@b] {b} ? > > ( [ask] {a:n} | {a} [ask] ) .
# tellage speech
<q:b:a {b} [be@b] {years2} years old , > ( [say@b] {b:n} | {b} [say@b] ) .
<q:b:a {years2} , > ( [answer@b] {b:n} | {b} [answer@b] ) ( {*tone} | ) .
# greet speech good
<q:a:b {*hello} , > ( [say] {a:n} | {a} [say] ) .
<q:a:b {*hello} , {b:v} ! > ( [call] {a:n} | {a} [call] ) .
<q:a:b {*hello} , {b:v} . <? How [be@b] {b} ? > > ( [ask] {a:n} | {a} [ask] ) .
# reply speech
<q:b:a {b} [be@b] ( well | tired | hungry | {*joy} | {*sadness} ) , > ( [say@b] {b:n} | {b} [say@b] ) .
<q:b:a {b} [not know@b] , > ( [say@b] {b:n} | {b} [say@b] ) ( {*tone} | ) .
<q:b:a ( Thank {a:o} | Please [base:help] {b:o} | Never mind ) , > ( [reply@b] {b:n} | {b} [reply@b] ) .
# order speech
<q:a:b <! Please [base:$v] {o:d} ! > > ( [say] {a:n} | {a} [say] ) .
<q:a:b <! [base:give] {a:o} {o:d} , {b:v} ! > > ( [call] {a:n} | {a} [call] ) .
<q:a:b <! Do not [base:go] {p:to} ! > > ( [shout] {a:n} | {a} [shout] ) .
<q:a:b <! [base:bring] {a:o} a cup of {*drink} , please , > > ( [beg] {a:n} | {a} [beg] ) .
{a} [ask] {b:o} to [base:$v] {o:d} .
{a} [tell] {b:o} not to [base:go] {p:to} .
# plan speech
<q:a:b <fut Tomorrow {a} [go] {p:to} , > > ( [say] {a:n} | {a} [say] ) .
<q:a:b <fut {a} [$v] {o:d} {when2} , > > ( [promise] {a:n} | {a} [promise] ) .
<q:a:b <if If it [be@it] {weather} , > <fut {a} [stay] {place:in} , > > ( [say] {a:n} | {a} [say] ) .
<q:a:b <may {a} may [base:go] {p:to} , > > ( [say] {a:n} | {a} [say] ) . <q:a:b But {a} [not want] to . >
# offer speech good
<q:a:b <! [base:take] {o:d} , {b:v} , > > ( [say] {a:n} | {a} [say] ) . {a} [give] it to {b:o} .
<q:a:b {b} [need@b] {o:d} more than {a} [do] , > ( [say] {a:n} | {a} [say] ) , and {b:n} [accept@b] it .
<q:a:b {o:d} [be@o] {b:p} own now , > ( [say] {a:n} | {a} [say] ) to {b:m} .
# opinion speech
<q:a:b {c:n} [be@c] {*very} {trait3} , > ( [whisper] {a:n} | {a} [whisper] ) .
<q:a:b <? [not love@they] {a} {o:f} ? > > ( [ask] {a:n} | {a} [ask] ) .
<q:a:b {o:f} [be@o] {*nice} , > ( [say] {a:n} | {a} [say] ) {*manner} .
<q:a:b What a {weather} {time} ! > ( [say] {a:n} | {a} [say] ) .
<q:a:b {a} [hate] this weather , > ( [complain] {a:n} | {a} [complain] ) ( {*tone} | ) .
# argue speech bad
<q:a:b That [be@it] not true ! > ( [shout] {a:n} | {a} [shout] ) .
<q:a:b {b} [lie@b] , > ( [say] {a:n} | {a} [say] ) {*sadly} .
<q:a:b {a} never [past:say] that , > ( [mutter] {a:n} | {a} [mutter] ) .
{a} and {b:n} [argue@they] about {o:d} for {count} hours .
# recallowner recall
Now {o:d} [belong@o] to {c:m} .
The one <rel who [have@it] {o:f} now > [be@it] {c:m} .
By then , the owner of {o:f} [be@it] {c:m} .
( Everyone | {town} | {a} ) ( [know] | [remember] | [notice] ) <comp that {o:f} [be@o] ( in {c:p} house | with {c:m} ) > .
<sub If ( anyone | someone | a neighbour | {a} ) [need] {o:f} , > ( it [be@it] best to [base:ask] {c:m} | {c:n} [have@c] it | \
the way [lead@it] to {c:m} ) .
# recallplace recall
{o:f} [be@o] still {where} .
All this time {o:f} [lie@o] {where} .
( Nobody | No one | Not even {a:n} ) [touch@it] {o:f} , which [stand@it] {where} .
# recalljob recall
After all , {c:n} [be@c] {an_job3} .
People [forget@they] sometimes <comp that {c:n} [work@c] as {an_job3} > .
When {c:n} [go@c] to work , it [be@it] as {an_job3} .
# recallhome recall
{c:n} [come@c] from {home3} .
Every {season} {c:n} [travel@c] back to {home3} .
{c:p} house [stand@it] in {home3} .
# recallage recall
{c:n} [be@c] {years3} .
At {years3} , {c:n} [know@c] what to [base:do] .
# recalltrait recall
{c:n} [be@c] as {trait3} as ever .
Such [be@it] {c:n} : {*very} {trait3} .
# recallkin recall
{c:n} [be@c] {a:p} {relation3} .
Who [come@it] in but {c:m} , {a:p} {relation3} ?
# recallthing recall
{c:n} still [have@c] {o:f} .
In {c:p} house there [be@it] now {o:f} .
What {c:n} [own@c] [be@it] {o:f} .
# l_owner recall
{*later} , {o:f} [belong@o] to {target:m} .
( {*later} | Now ) the owner of {o:f} [be@it] {target:m} .
And <sub if you [ask@you] who [have@it] {o:f} , > the answer [be@it] {target:m} .
The house <rel where one [find@it] {o:f} > [be@it] that of {target:m} .
# l_place recall
( {*later} | All this time | Now ) {o:f} [be@o] in the {target} .
To [base:see] {o:f} , one must [base:look] in the {target} .
And {o:f} ? It [stand@o] in the {target} .
# l_work recall
( {*later} | Now ) {c:n} [go@c] to work , and the work [be@it] that of the {target} .
Nobody [forget@it] <comp that {c:n} [be@c] the {target} > .
In {town} , everyone [call@it] {c:m} the {target} .
# l_home recall
( {*later} | Now ) {c:n} [travel@c] home to {target} .
The road [lead@it] {c:m} back to {target} .
In {season} {c:n} always [think@c] of {target} .
# l_thing recall
( {*later} | Now ) {c:n} [have@c] nothing but the {target} .
The only thing <rel that {c:n} [own@c] > [be@it] the {target} .
{c:n} [go@c] home and [look@c] at the {target} .
# q_owner recall
At the door [stand@it] {target} , {an_job} .
Who [come@it] in but {target} , {an_job} ?
# q_work recall
After all , {c:n} [be@c] {target} .
People [forget@they] sometimes <comp that {c:n} [work@c] as {target} > .
Who [come@it] in but {c:n} , {target} ?
# q_there recall
Nobody [forget@it] {o:f} in the {target} .
# q_where recall
Nobody [forget@it] <comp that in the {target} [stand@o] {an_o} > .
# q_look recall
Nobody [forget@it] the {target} .
{*later} everyone [speak@it] of the {target} .
# q_thing recall
Nobody [forget@it] the {target} .
{*later} everyone [speak@it] of the {target} .
# ending description good
( So | And so | That [be@it] how ) {a:n} [keep] {o:d} , and everyone [be@it] {*joy} .
{a} [go] home to {home} and [sleep] until {time2} .
That {time} , {a} and {b:n} [sit@they] together {place:in} and [tell@they] old stories .
And that [be@it] the end of the story .
People in {home} still [tell@they] the story of {a:m} and {o:d} .
# moral fact
<must Whoever [borrow@it] ( a thing | {an_x} ) must [base:bring] it back ( {*manner} | one {weekday} | ) > .
<sub When ( friends | neighbours | {beastsp} | children ) [help@they] each other , > ( hard work [be@it] soon done | every \
{*idea} [grow@it] | no {time} [be@it] long ) .
A secret [be@it] safe with a {trait} friend .
It [be@it] better to [base:be] {trait} than to [base:be] rich .
# question fact
Question : <? Who [past:have@it] {o:f} at the end ? > Answer : {c:n} .
Question : <? To whom [past:do@it] {o:f} [base:belong] ? > Answer : to {c:m} .
# questionjob fact
Question : <? What [past:be@c] {c:n} ? > Answer : {an_job3} .
# questionhome fact
Question : <? Where [past:do@c] {c:n} [base:live] ? > Answer : in {home3} .
# questionage fact
Question : <? How old [past:be@c] {c:n} ? > Answer : {years3} .
""")
