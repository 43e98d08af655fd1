"""ABI granules and ISatSS tiles in the public layouts, written small and by other code than the readers'."""

import io
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

# Band: radiance scale and offset, then kappa0 or the four Planck constants; magnitudes of real headers.
ABI = {
    "C01": (0.8121, -25.936647, 0.0015839, 10),
    "C02": (0.15859237, -20.289911, 0.0019484, 12),
    "C03": (0.3770128, -12.037643, 0.0033341, 10),
    "C04": (0.07073108, -4.5223684, 0.0088126, 11),
    "C05": (0.09581188, -3.0596132, 0.0131052, 10),
    "C06": (0.03009258, -0.96095066, 0.0417321, 10),
    "C07": (0.001564351, -0.0376, (202263.0, 3698.19, 0.43361, 0.99939), 14),
    "C08": (0.024, -0.5587, (50687.1, 2331.58, 1.55228, 0.99667), 12),
    "C09": (0.029, -0.8236, (35828.3, 2076.95, 0.34427, 0.99918), 11),
    "C10": (0.047, -0.9561, (30174.0, 1961.38, 0.05651, 0.99986), 12),
    "C11": (0.06, -1.3022, (19779.9, 1703.83, 0.18733, 0.99948), 12),
    "C12": (0.049, -1.5394, (13432.1, 1497.61, 0.09102, 0.99971), 11),
    "C13": (0.04572892, -1.6443, (10803.3, 1392.74, 0.0755, 0.99975), 12),
    "C14": (0.06, -1.7187, (8510.22, 1286.67, 0.22516, 0.9992), 12),
    "C15": (0.06, -1.7558, (6454.62, 1173.03, 0.21702, 0.99916), 12),
    "C16": (0.06, -5.2392, (5101.27, 1084.53, 0.06266, 0.99974), 10),
}
ABI_FINER = {"C01": 2, "C02": 4, "C03": 2, "C05": 2}
ABI_STEP = 5.6e-05


def goes_name(channel: str, start: str, sector: str = "C", created: str = "20232481801000") -> str:
    """Key of a GOES-R granule whose scan starts at `start` ('YYYYDDDHHMMSSt')."""
    folder = f"ABI-L1b-Rad{sector[0]}/{start[:4]}/{start[4:7]}/{start[7:9]}"
    return f"{folder}/OR_ABI-L1b-Rad{sector}-M6{channel}_G16_s{start}_e{start}_c{created}.nc"


def _packed(file: h5py.File, name: str, data: NDArray[Any], attributes: Mapping[str, Any]) -> h5py.Dataset:
    dataset = file.create_dataset(name, data=data, track_times=False)
    for key, value in attributes.items():
        dataset.attrs[key] = value
    return dataset


def goes(
    channel: str,
    start: str,
    raw: NDArray[np.uint16],
    quality: NDArray[np.uint8] | None = None,
    *,
    corner: tuple[float, float] = (-0.101332, 0.128212),
    attributes: Mapping[str, Any] | None = None,
    band: int | None = None,
) -> bytes:
    """One ABI granule; `corner` is the scan angle (rad) of the north-west 2 km pixel's centre."""
    scale, offset, last, bits = ABI[channel]
    finer = ABI_FINER.get(channel, 1)
    step = ABI_STEP / finer
    x0, y0 = corner[0] - ABI_STEP / 2 + step / 2, corner[1] + ABI_STEP / 2 - step / 2
    when = f"{start[:4]}-01-01T{start[7:9]}:{start[9:11]}:{start[11:13]}"
    moment = np.datetime64(when) + np.timedelta64(int(start[4:7]) - 1, "D")
    one = {name: np.array([value]) for name, value in {"scale_factor": scale, "add_offset": offset}.items()}
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        packing = {name: value.astype(np.float32) for name, value in one.items()}
        fill = np.array([(1 << bits) - 1], np.uint16).view(np.int16)
        radiance = _packed(
            file, "Rad", raw.view(np.int16), packing | {"_Unsigned": "true", "_FillValue": fill, "units": "any"}
        )
        flags = quality if quality is not None else np.zeros(raw.shape, np.uint8)
        dqf = _packed(file, "DQF", flags.view(np.int8), {"_Unsigned": "true", "_FillValue": np.array([-1], np.int8)})
        for axis, (name, first, sign) in enumerate((("y", y0, -1), ("x", x0, 1))):
            coordinate = _packed(
                file,
                name,
                np.arange(raw.shape[axis], dtype=np.int16),
                {
                    "scale_factor": np.array([sign * step], np.float32),
                    "add_offset": np.array([first], np.float32),
                    "units": "rad",
                },
            )
            coordinate.make_scale(name)
            radiance.dims[axis].attach_scale(coordinate)
            dqf.dims[axis].attach_scale(coordinate)
        projection = {
            "grid_mapping_name": "geostationary",
            "perspective_point_height": np.array([35786023.0]),
            "semi_major_axis": np.array([6378137.0]),
            "semi_minor_axis": np.array([6356752.31414]),
            "longitude_of_projection_origin": np.array([-75.0]),
            "latitude_of_projection_origin": np.array([0.0]),
            "sweep_angle_axis": "x",
        }
        _packed(file, "goes_imager_projection", np.int32(-2147483647), projection)
        _packed(file, "band_id", np.array([band or int(channel[1:])], np.int8), {})
        scalars = {"nominal_satellite_subpoint_lat": 0.0, "nominal_satellite_subpoint_lon": -75.2}
        scalars |= {"nominal_satellite_height": 35786.02, "yaw_flip_flag": 0.0}
        if isinstance(last, tuple):
            scalars |= dict(zip(("planck_fk1", "planck_fk2", "planck_bc1", "planck_bc2"), last, strict=True))
        else:
            distance = 1.0123
            scalars |= {
                "kappa0": last,
                "earth_sun_distance_anomaly_in_AU": distance,
                "esun": np.pi * distance**2 / last,
            }
        for name, value in scalars.items():
            _packed(file, name, np.float32(value), {})
        header = {
            "time_coverage_start": f"{moment}.{start[13]}Z",
            "time_coverage_end": f"{moment + np.timedelta64(60, 's')}.0Z",
            "scene_id": "CONUS",
            "platform_ID": "G16",
        }
        for name, value in (header | dict(attributes or {})).items():
            file.attrs[name] = value
    return buffer.getvalue()


AHI_FINER = {"B01": 2, "B02": 2, "B03": 4, "B04": 2}
AHI_STEP = 55.9974  # microradians between 2 km pixels, 5500 of them across the disk


def tile_name(channel: str, start: str, tile: int, created: str = "20232481808000") -> str:
    """Key of one ISatSS tile; `start` as 'YYYYDDDHHMMSSt'."""
    code = {1: "020", 2: "010", 4: "005"}[AHI_FINER.get(channel, 1)]
    day = np.datetime64(f"{start[:4]}-01-01") + np.timedelta64(int(start[4:7]) - 1, "D")
    folder = f"AHI-L2-FLDK-ISatSS/{str(day).replace('-', '/')}/{start[7:11]}"
    return f"{folder}/OR_HFD-{code}-B12-M1C{channel[1:]}-T{tile:03d}_GH9_s{start}_c{created}.nc"


def tile(
    channel: str,
    start: str,
    raw: NDArray[np.int16],
    place: tuple[int, int],
    product: tuple[int, int],
    *,
    tiles: int = 4,
    attributes: Mapping[str, Any] | None = None,
) -> bytes:
    """One tile at (row, column) of a full image of `product` pixels centred below the satellite."""
    finer = AHI_FINER.get(channel, 1)
    step = AHI_STEP / finer
    solar = int(channel[1:]) <= 6
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        packing = {
            "scale_factor": np.float32(0.0003 if solar else 0.05),
            "add_offset": np.float32(0.0 if solar else 160),
        }
        pixels = _packed(
            file,
            "Sectorized_CMI",
            raw,
            packing
            | {"_FillValue": np.array([-1], np.int16), "units": "1" if solar else "kelvin"}
            | {"standard_name": "toa_bidirectional_reflectance" if solar else "brightness_temperature"}
            | {"grid_mapping": "fixedgrid_projection"},
        )
        for axis, (name, sign) in enumerate((("y", -1), ("x", 1))):
            first = sign * step * (place[axis] - (product[axis] - 1) / 2)
            values = np.arange(raw.shape[axis], dtype=np.int16)
            coordinate = _packed(
                file, name, values, {"scale_factor": sign * step, "add_offset": first, "units": "microradian"}
            )
            coordinate.make_scale(name)
            pixels.dims[axis].attach_scale(coordinate)
        projection = {
            "grid_mapping_name": "geostationary",
            "perspective_point_height": 35785863.0,
            "semi_major_axis": 6378137.0,
            "semi_minor_axis": 6356752.3,
            "longitude_of_projection_origin": 140.7,
            "latitude_of_projection_origin": 0.0,
            "sweep_angle_axis": "y",
        }
        _packed(file, "fixedgrid_projection", np.int32(0), projection)
        header = {
            "channel_id": np.array([int(channel[1:])], np.int32),
            "start_date_time": start[:13],
            "satellite_id": "GOES-H9",
            "product_rows": np.array([product[0]], np.int32),
            "product_columns": np.array([product[1]], np.int32),
            "tile_row_offset": np.array([place[0]], np.int32),
            "tile_column_offset": np.array([place[1]], np.int32),
            "product_tile_height": np.array([raw.shape[0]], np.int32),
            "product_tile_width": np.array([raw.shape[1]], np.int32),
            "number_product_tiles": np.array([tiles], np.int32),
        }
        for name, value in (header | dict(attributes or {})).items():
            file.attrs[name] = value
    return buffer.getvalue()
