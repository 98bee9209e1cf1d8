"""A vision-language model of CLIP's kind, and all that is made with it frozen (simbaseline §3, §4).

`model` opens and keeps it, `tokenizer` and `captions` train a small one; `templates` and `text` turn
class names into vectors, `pools` and `prompts` learn the words around them; `crops` and `regions`
turn mask proposals into vectors of the same space, `windows` whole images.
"""
