/**
 * How a mount and the kernel speak: by the kernel's own protocol over /dev/fuse, or through libfuse 2 by the npm package
 * fuse-native, which also reaches macFUSE. Loads nothing: either may be missing.
 */
export const TRANSPORTS = ["kernel", "fuse-native"] as const;
export type Transport = (typeof TRANSPORTS)[number];

export const DEFAULT_TRANSPORT: Transport = process.platform === "darwin" ? "fuse-native" : "kernel";
