"""The tables that are the same for every scene: sensors, categories, attributes, levels, map."""

from frames.world.catalogue import CATEGORIES
from frames.world.config import WorldConfig
from frames.world.nuscenes_scene import Row, Tables, token
from frames.world.sensors import MOUNTS, Sensor, camera, lidar

MAP_FILE = "maps/world.png"
# The eight attributes of nuScenes.
ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
LEVELS = ("v0-40", "v40-60", "v60-80", "v80-100")


def vocabulary(config: WorldConfig, logs: list[str]) -> Tables:
    """Rows of the tables that no scene changes.

    Args:
        config: Gives the size of the images, hence the intrinsics.
        logs: Tokens of all logs, which share one map.
    """
    sensors = [lidar(config), *(camera(mount, config.image_size) for mount in MOUNTS)]
    return {
        "attribute": [_named("attribute", name) for name in ATTRIBUTES],
        "category": [_named("category", name) for name in CATEGORIES],
        "visibility": [
            {"token": str(place), "level": level, "description": f"visibility {level[1:]} percent"}
            for place, level in enumerate(LEVELS, 1)
        ],
        "sensor": [_sensor(sensor) for sensor in sensors],
        "calibrated_sensor": [_calibrated(sensor) for sensor in sensors],
        "map": [
            {
                "token": token("map"),
                "category": "semantic_prior",
                "filename": MAP_FILE,
                "log_tokens": logs,
            }
        ],
    }


def _named(table: str, name: str) -> Row:
    return {"token": token(table, name), "name": name, "description": ""}


def _sensor(sensor: Sensor) -> Row:
    modality = "lidar" if sensor.image_from_cam is None else "camera"
    return {"token": token("sensor", sensor.name), "channel": sensor.name, "modality": modality}


def _calibrated(sensor: Sensor) -> Row:
    intrinsic = [] if sensor.image_from_cam is None else sensor.image_from_cam.tolist()
    return {
        "token": token("calibrated_sensor", sensor.name),
        "sensor_token": token("sensor", sensor.name),
        "translation": sensor.ego_from_sensor.translation.tolist(),
        "rotation": sensor.ego_from_sensor.quaternion,
        "camera_intrinsic": intrinsic,
    }
