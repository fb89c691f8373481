"""What people call things seen from above, written by hand, and what of it is held back to test.

A concept is what a picture's labels can tell apart. Every phrase of a concept means its pixels. Held-back
phrases and templates are never trained on, and are no negatives either.
"""

from __future__ import annotations

CONCEPTS: dict[str, tuple[str, ...]] = {
    "building": (
        "building", "buildings", "house", "houses", "home", "homes", "roof", "roofs", "rooftop", "rooftops",
        "built structures", "structures", "man made structures", "dwellings", "apartment blocks",
        "apartments", "warehouses", "warehouse", "factories", "sheds", "barns", "residential buildings",
        "housing", "building roofs", "building footprints", "villas", "offices", "office buildings",
        "blocks of flats", "schools", "huts", "farm buildings", "industrial buildings", "settlement",
        "houses and sheds", "residences", "hospitals", "churches", "church", "mosques", "tower blocks",
        "high rises", "townhouses", "hotels", "shopping mall", "garages", "hangars", "cabins",
        "urban structures", "cathedrals", "temples", "palaces", "monuments", "greenhouse buildings", "malls",
        "dormitories", "stores", "supermarkets",
    ),
    "road": (
        "road", "roads", "street", "streets", "highway", "highways", "roadway", "roadways", "motorway",
        "motorways", "paved road", "paved roads", "asphalt road", "country road", "road network", "lanes",
        "avenue", "avenues", "track", "dirt road", "main road", "traffic lanes", "freeway", "expressway",
        "carriageway", "boulevard", "transport network", "driveways", "road surface", "routes", "pavement",
        "asphalt",
        "bypass", "ring road", "paved surface", "side streets",
    ),
    "field": (
        "field", "fields", "farmland", "farm field", "farm fields", "cropland", "croplands", "crops",
        "crop fields", "agricultural land", "agricultural fields", "agriculture", "arable land",
        "cultivated land", "farms", "farm land", "ploughed field", "wheat fields", "wheat", "maize",
        "corn field", "cultivated fields", "agricultural parcels", "parcels of farmland", "plantations",
        "paddy fields", "grain fields", "barley", "orchards", "orchard", "plowed land", "farmed land",
        "soybeans", "rice paddies", "cotton fields", "sugarcane", "sunflowers", "olive groves", "hop gardens",
    ),
    "woods": (
        "woods", "wood", "forest", "forests", "woodland", "woodlands", "trees", "tree", "tree cover",
        "wooded area", "wooded areas", "forested area", "forested land", "tree canopy", "grove", "groves",
        "stand of trees", "clump of trees", "pine forest", "jungle", "copse", "thicket", "tree crowns",
        "canopy", "deciduous forest", "mangroves", "treetops", "bushland", "evergreen trees", "pines", "pine trees",
        "spruce", "firs", "cedars", "birches", "poplars", "beech trees", "eucalyptus trees", "palms", "palm trees",
    ),
    "vegetation": (
        "vegetation", "greenery", "plants", "green areas", "green space", "vegetated area", "plant cover",
        "green plants", "foliage", "vegetated land", "bushes", "shrubs", "parks", "gardens", "park", "hedges",
        "flora", "leaves",
        "planted areas", "undergrowth", "shrubland",
    ),
    "water": (
        "water", "waters", "body of water", "water bodies", "bodies of water", "open water", "water surface",
        "surface water", "waterbody", "wet areas", "anything wet", "where there is water", "flood water",
        "flooded area",
    ),
    "lake": (
        "lake", "lakes", "pond", "ponds", "reservoir", "reservoirs", "lagoon", "inland water",
        "freshwater lake", "tarn", "standing water", "small lake", "prairie lakes", "pool of water", "lagoons",
    ),
    "river": (
        "river", "rivers", "stream", "streams", "creek", "river channel", "waterway", "waterways",
        "flowing water", "river bed with water", "canal", "canals", "meander", "tributary", "brook", "streams",
        "estuary",
    ),
    "sea": (
        "sea", "ocean", "bay", "seawater", "coastal water", "harbour water", "sea water", "gulf", "inlet",
        "ocean water", "strait", "fjord",
    ),
    "land": (
        "bare land", "bare ground", "bare soil", "open ground", "unpaved land", "barren land", "desert",
        "sand", "soil", "dirt", "undeveloped land", "empty land", "open land", "bare earth", "vacant land",
        "wasteland", "sandy ground", "unpaved ground", "dry land", "gravel", "dunes", "sand dunes",
        "exposed soil", "mud",
        "arid land", "unpaved area",
    ),
    "grass": (
        "grass", "grassland", "meadow", "meadows", "lawn", "lawns", "pasture", "pastures", "grassy area",
        "turf", "savanna",
        "steppe", "grazing land",
        "prairie",
    ),
}  # fmt: skip

HELD_BACK: dict[str, tuple[str, ...]] = {
    "building": (
        "cottages",
        "bungalows",
        "farmhouses",
        "skyscrapers",
        "edifices",
        "the built up structures",
        "mansions",
    ),
    "road": ("thoroughfare", "lane", "tarmac road", "roadside", "interstate", "alleys"),
    "field": (
        "farming land",
        "crop land",
        "tilled fields",
        "vineyards",
        "harvest fields",
        "agricultural plots",
    ),
    "woods": ("rainforest", "timberland", "forestland", "oak trees", "conifers", "a dense forest"),
    "lake": ("lakelet", "fishpond", "a small pond", "mere lake", "the lake water"),
    "water": ("waterbodies", "the water area", "watery surface", "pools of water"),
    "vegetation": ("plant life", "green vegetation", "shrubbery"),
    "land": ("naked soil", "bare sandy ground", "dusty ground"),
}

TEMPLATES: tuple[str, ...] = (
    "{}", "{}", "{}", "{}", "the {}", "the {}", "the {}", "all {}", "all the {}", "every {}", "each {}",
    "any {}", "some {}", "show me the {}", "show the {}", "find the {}", "find all {}", "find {}",
    "segment the {}", "segment {}", "where are the {}", "where is the {}?", "map the {}", "map all the {}",
    "mark {}", "outline the {}", "highlight {}", "{} in the image", "{} in this picture",
    "the {} in the scene", "pixels that are {}", "areas of {}", "the area of {}", "{} seen from above",
    "{} seen from space", "satellite view of {}", "please find the {}", "i am looking for {}",
    "land covered by {}", "extent of the {}", "visible {}", "a {}", "an aerial photo of {}",
    "the visible {} here", "parts covered with {}", "{} only", "individual {}", "give me a mask of the {}",
    "large {}", "small {}", "big {}",
)  # fmt: skip

HELD_BACK_TEMPLATES: tuple[str, ...] = (
    "could you draw the {} for me", "which parts of this tile show {}", "i want to see every one of the {}",
    "locate {} please", "delineate the {} on the map", "everything that is {}",
)  # fmt: skip

NOWHERE: tuple[str, ...] = (
    "airplanes", "airplane", "aircraft", "a jet", "helicopter", "volcano", "a volcano", "lava", "glacier",
    "glaciers", "snow", "ice", "iceberg", "elephants", "cows", "sheep", "horses", "dinosaur", "penguins",
    "polar bear", "submarine", "rocket", "space station", "moon", "planet", "stars", "rainbow", "pyramid",
    "castle moat dragon", "baseball diamond", "wind turbines", "wind turbine", "nuclear cooling towers",
    "oil rig", "coral reef", "waterfall", "geyser", "crater", "banana", "pizza", "computer", "guitar",
    "happiness", "tuesday", "the opposite of blue", "a poem about love", "democracy", "mathematics",
    "the president", "a cat", "dogs", "people dancing", "umbrella", "teapot", "shoes", "clouds of steam",
    "wildfire", "fire", "smoke", "explosion", "cliff", "canyon", "mountain peak", "ski slope",
)  # fmt: skip
"""In none of the pictures trained on: nothing there answers to these."""

NOT_DRAWN: tuple[str, ...] = (
    "swimming pool", "swimming pools", "tennis court", "tennis courts", "solar panels", "solar farm",
    "storage tanks", "oil tank", "cars", "car", "vehicles", "trucks", "ships", "boats", "boat", "railway",
    "railway tracks", "train", "bridge", "bridges", "parking lot", "car park", "airport", "runway",
    "football pitch", "stadium", "golf course", "cemetery", "quarry", "beach", "harbour", "dock",
    "power lines", "chimney", "windmill", "greenhouses", "statue", "landfill", "construction site",
    "roundabout", "playground", "fence", "containers", "crane",
)  # fmt: skip
"""Real pictures may have them, unlabelled; the synthetic world has none."""

HELD_BACK_NOWHERE: tuple[str, ...] = (
    "spaceships", "a herd of zebras", "an erupting volcano", "snow covered peaks", "icebergs", "xqzv blorp",
    "asdfghjkl", "philosophy", "jet fighters", "an airplane", "whales", "sandwich", "the bicycle",
    "microscope", "giraffes", "wvutsr", "qqqq zzzz", "tractor pulling contest", "parachute", "telescope",
)  # fmt: skip


PLAIN: tuple[str, ...] = (
    "new", "old", "red", "green", "blue", "white", "black", "brown", "grey", "gray", "yellow", "dark",
    "bright", "long", "short", "wide", "narrow", "tall", "high", "low", "dense", "deep", "shallow", "two",
    "three", "four", "many", "several", "main", "general", "leading", "existing", "modern", "rural", "urban",
    "public", "private", "local", "natural", "north", "south", "east", "west", "left", "right", "upper",
    "lower", "near", "nearby", "between", "beside", "next", "with", "and",
)  # fmt: skip
"""Words that say nothing of what a thing is; not to be learned as a sign that it is absent."""


def every_phrase() -> list[str]:
    """All of it, held back or not."""
    groups = [*CONCEPTS.values(), *HELD_BACK.values(), NOWHERE, NOT_DRAWN, HELD_BACK_NOWHERE]
    return [phrase for group in groups for phrase in group]


def common_words() -> frozenset[str]:
    """Words too near a concept, or too empty of meaning, to stand for an absent thing."""
    of_concepts = {
        word for group in (*CONCEPTS.values(), *HELD_BACK.values()) for phrase in group for word in phrase.split()
    }
    of_templates = {
        word for template in (*TEMPLATES, *HELD_BACK_TEMPLATES) for word in template.replace("{}", "").split()
    }
    return frozenset(of_concepts | of_templates | set(PLAIN))
