"""From the class names people use in Xtreme1 to nuScenes categories."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping

from petrflow.errors import PetrflowError
from petrflow.nuscenes.names import CATEGORY_OF_DETECTION

_MORE_CATEGORIES = (
    "vehicle.bus.bendy", "human.pedestrian.child", "human.pedestrian.construction_worker", "human.pedestrian.police_officer",
    "human.pedestrian.personal_mobility", "human.pedestrian.stroller", "human.pedestrian.wheelchair", "animal", "vehicle.emergency.ambulance",
    "vehicle.emergency.police", "movable_object.debris", "movable_object.pushable_pullable", "static_object.bicycle_rack",
)  # fmt: skip
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


def category_of(name: str, class_map: Mapping[str, str | None]) -> tuple[str | None, bool]:
    """Return the nuScenes category of a class name, and whether anything mapped it.

    The config's `class_map` comes first (exactly, then by :func:`plain_name`), then the built-in
    names. Its targets are detection names (`car`), nuScenes categories (`vehicle.car`) or null,
    which leaves the boxes out: (None, True). A name that nothing maps stays its own category, which
    training and evaluation pass over.
    """
    folded = {plain_name(key): target for key, target in class_map.items()}
    if name in class_map or plain_name(name) in folded:
        target = class_map[name] if name in class_map else folded[plain_name(name)]
        if target is None:
            return None, True
        if target in CATEGORY_OF_DETECTION:
            return CATEGORY_OF_DETECTION[target], True
        if target in CATEGORY_OF_DETECTION.values() or target in _MORE_CATEGORIES:
            return target, True
        raise PetrflowError(
            f"`class_map` sends '{name}' to '{target}', which is no class. Use one of {', '.join(CATEGORY_OF_DETECTION)}, or null."
        )
    if name in CATEGORY_OF_DETECTION.values() or name in _MORE_CATEGORIES:
        return name, True
    plain = plain_name(name)
    known = {re.sub(r"_", "", detection): detection for detection in CATEGORY_OF_DETECTION} | _SYNONYMS
    if plain in known:
        return CATEGORY_OF_DETECTION[known[plain]], True
    return name or "unnamed", False


def class_map_to_paste(names: Iterable[str]) -> str:
    """Return a `class_map` with the names that nothing maps, ready to paste into the config; a
    target takes the place of each null.
    """
    return "class_map: {" + ", ".join(f"{json.dumps(name, ensure_ascii=False)}: null" for name in names) + "}"
