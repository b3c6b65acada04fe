"""Draws posts of a gardeners' forum as XML. About a third of them are about tomatoes.

    draw.py POSTS SEED > posts.xml
"""
import random
import sys
from xml.sax.saxutils import quoteattr

COMMON = "how when why water soil garden plant leaves grow spring pot sun small help best week days seeds dry".split()
TOMATO = "tomato fruit ripe stake sucker truss greenhouse blight red vine".split()
OTHER = "rose lawn hedge apple bulb moss prune tulip compost fern".split()

posts, seed = int(sys.argv[1]), int(sys.argv[2])
drawn = random.Random(seed)
print('<?xml version="1.0" encoding="utf-8"?>\n<posts>')
for number in range(posts):
    is_tomato = drawn.random() < 0.35
    own, others = (TOMATO, OTHER) if is_tomato else (OTHER, TOMATO)
    words = [drawn.choice(COMMON if drawn.random() < 0.8 else own if drawn.random() < 0.7 else others) for _ in range(25)]
    title, body = " ".join(words[:5]), " ".join(words[5:])
    tags = "<tomato>" if is_tomato else "<other>"
    print(f"  <row Id={quoteattr(str(number))} Tags={quoteattr(tags)} Title={quoteattr(title)} Body={quoteattr(body)} />")
print("</posts>")
