"""What cameras, codecs and light do to a crop: degradations of uint8 RGB images.

Every function takes and gives uint8 [H, W, 3] and leaves the geometry as it is, so labels hold.
"""

import cv2
import numpy as np


def relight(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exposure, contrast, gamma, white balance, saturation; now and then a dark or grey image."""
    x = image.astype(np.float32) / 255
    dark = rng.random() < 0.12
    gamma = np.exp(rng.normal(0, 0.2)) * (rng.uniform(1.3, 2.2) if dark else 1.0)
    x = x ** np.float32(gamma)
    x *= rng.normal(1, 0.06, 3).astype(np.float32) * np.float32(np.exp(rng.normal(0, 0.15)))
    middle = x.mean()
    x = (x - middle) * np.float32(np.exp(rng.normal(0, 0.15))) + middle
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    colour = 0.0 if rng.random() < 0.04 else np.exp(rng.normal(0, 0.25))
    x = grey[..., None] + (x - grey[..., None]) * np.float32(colour)
    return (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)


def soften(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lost detail: a small source enlarged, defocus, or the smear of motion."""
    height, width = image.shape[:2]
    if rng.random() < 0.4:
        scale = rng.uniform(0.25, 0.9)
        size = max(8, round(width * scale)), max(8, round(height * scale))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        method = cv2.INTER_LINEAR if rng.random() < 0.7 else cv2.INTER_CUBIC
        image = cv2.resize(small, (width, height), interpolation=method)
    choice = rng.random()
    if choice < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.8))
    elif choice < 0.37:
        image = cv2.filter2D(image, -1, _motion_kernel(rng.integers(3, 12), rng.uniform(0, np.pi)))
    return image


def _motion_kernel(length: int, angle: float) -> np.ndarray:
    size = int(length) | 1
    kernel = np.zeros((size, size), np.float32)
    reach = (size - 1) / 2 * np.array([np.cos(angle), np.sin(angle)])
    centre = np.array([size // 2] * 2)
    ends = (np.round(centre + side * reach).astype(int).tolist() for side in (-1, 1))
    cv2.line(kernel, *ends, 1.0, 1)
    return kernel / kernel.sum()


def add_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sensor noise, a mixture of signal-dependent and constant."""
    if rng.random() < 0.4:
        return image
    strength = rng.uniform(1, 12)
    noise = np.empty(image.shape, np.int16)
    cv2.setRNGSeed(int(rng.integers(2**31 - 1)))
    cv2.randn(noise, (0, 0, 0), (strength,) * 3)
    return np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)


def compress(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """JPEG at a quality between 25 and 95."""
    quality = int(rng.uniform(25, 95))
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR) if ok else image


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light, lost detail, noise and compression, in the order in which a camera applies them."""
    for step in (relight, soften, add_noise, compress):
        image = step(image, rng)
    return np.ascontiguousarray(image)
