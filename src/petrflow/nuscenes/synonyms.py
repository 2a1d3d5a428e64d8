"""Which class of a model a category of a data set is: the names that people use, in English and
Chinese.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from petrflow.nuscenes.names import CATEGORY_OF_DETECTION, DETECTION_NAMES

# Names seen in ontologies of Xtreme1, PandaSet and KITTI, and of Chinese projects, without case,
# spaces and punctuation.
_SYNONYMS = {
    "car": "car", "suv": "car", "sedan": "car", "van": "car", "minivan": "car", "taxi": "car", "vehicle": "car", "automobile": "car",
    "pickup": "truck", "pickuptruck": "truck", "truck": "truck", "lorry": "truck", "mediumsizedtruck": "truck", "semitruck": "truck",
    "constructionvehicle": "construction_vehicle", "otherconstructionvehicle": "construction_vehicle", "excavator": "construction_vehicle",
    "bus": "bus", "coach": "bus", "schoolbus": "bus", "trailer": "trailer", "towedobject": "trailer",
    "barrier": "barrier", "constructionbarrier": "barrier", "temporaryconstructionbarriers": "barrier", "roadbarriers": "barrier",
    "motorcycle": "motorcycle", "motorbike": "motorcycle", "motorizedscooter": "motorcycle", "motorcyclist": "motorcycle",
    "bicycle": "bicycle", "bike": "bicycle", "cyclist": "bicycle", "ebike": "bicycle",
    "pedestrian": "pedestrian", "person": "pedestrian", "people": "pedestrian", "adult": "pedestrian", "child": "pedestrian",
    "human": "pedestrian", "worker": "pedestrian",
    "trafficcone": "traffic_cone", "cone": "traffic_cone", "cones": "traffic_cone",
    "小汽车": "car", "小轿车": "car", "小客车": "car", "轿车": "car", "汽车": "car", "小车": "car", "乘用车": "car", "面包车": "car",
    "出租车": "car", "越野车": "car", "商务车": "car", "私家车": "car",
    "卡车": "truck", "货车": "truck", "大货车": "truck", "小货车": "truck", "大卡车": "truck", "皮卡": "truck", "皮卡车": "truck", "厢式货车": "truck",
    "工程车": "construction_vehicle", "工程车辆": "construction_vehicle", "施工车": "construction_vehicle", "施工车辆": "construction_vehicle",
    "挖掘机": "construction_vehicle", "挖机": "construction_vehicle", "装载机": "construction_vehicle",
    "公交车": "bus", "公交": "bus", "公共汽车": "bus", "巴士": "bus", "大巴": "bus", "大巴车": "bus", "中巴": "bus", "客车": "bus", "大客车": "bus",
    "校车": "bus", "挂车": "trailer", "拖车": "trailer", "半挂车": "trailer", "拖挂车": "trailer",
    "隔离栏": "barrier", "护栏": "barrier", "围栏": "barrier", "栏杆": "barrier", "路障": "barrier", "水马": "barrier", "隔离墩": "barrier",
    "隔离带": "barrier", "路栏": "barrier",
    "摩托车": "motorcycle", "摩托": "motorcycle", "电动车": "motorcycle", "电瓶车": "motorcycle", "电动摩托车": "motorcycle", "踏板车": "motorcycle",
    "自行车": "bicycle", "单车": "bicycle", "脚踏车": "bicycle", "电动自行车": "bicycle", "骑行者": "bicycle", "骑车人": "bicycle", "骑行人": "bicycle",
    "行人": "pedestrian", "人": "pedestrian", "路人": "pedestrian", "成人": "pedestrian", "成年人": "pedestrian", "儿童": "pedestrian",
    "小孩": "pedestrian", "工人": "pedestrian", "人员": "pedestrian",
    "锥桶": "traffic_cone", "锥筒": "traffic_cone", "交通锥": "traffic_cone", "交通锥桶": "traffic_cone", "锥形桶": "traffic_cone", "路锥": "traffic_cone",
    "雪糕筒": "traffic_cone", "反光锥": "traffic_cone",
}  # fmt: skip


def plain_name(name: str) -> str:
    """A class name without what people do not mean: case, blanks, punctuation, full-width
    letters.
    """
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", name).casefold())


def detection_of(name: str) -> str | None:
    """Return the detection class that a name means; None where it means none."""
    if name in DETECTION_NAMES:
        return DETECTION_NAMES[name]
    return _KNOWN.get(plain_name(name))


_KNOWN = {plain_name(detection): detection for detection in CATEGORY_OF_DETECTION} | _SYNONYMS


def labels_of(categories: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Return the place in ``class_names`` of each category of a data set, -1 for those of no class.

    A category is the class of its own name; else of the same name but for case, blanks,
    punctuation and full-width letters; else of the detection class that both names mean (小汽车 and
    `car`). Where two classes would do, it is of neither.
    """
    exact = {name: label for label, name in enumerate(class_names)}
    plain, meant = _alone(map(plain_name, class_names)), _alone(map(detection_of, class_names))
    # `van` means `car` too, and a model that has both has a class `car` all the same.
    meant |= {name: label for name, label in exact.items() if name in CATEGORY_OF_DETECTION}
    found = []
    for name in categories:
        label = exact.get(name, plain.get(plain_name(name)))
        found.append(meant.get(detection_of(name), -1) if label is None else label)
    return found


def _alone(names: Iterable[str | None]) -> dict[str | None, int]:
    """Return the places of names that are there once."""
    listed = list(names)
    return {name: place for place, name in enumerate(listed) if name and listed.count(name) == 1}
