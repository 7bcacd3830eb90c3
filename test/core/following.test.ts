/** A replica that is read while another connection changes it. */
import { describe, expect, test } from "vitest";
import { requireFeature } from "../../src/core/format.ts";
import { type Ino, ROOT_INO } from "../../src/core/types.ts";
import { Volume } from "../../src/core/volume.ts";
import { Database } from "../../src/db/database.ts";
import { Fixture } from "./fixture.ts";

const CALLER = { uid: 0, gid: 0, umask: 0o022 };

/** A replica, read as a mount does, and the connection that changes it. */
function following(run: (volume: Volume, db: Database, file: Ino) => void, readOnly = false): void {
  const fixture = new Fixture();
  try {
    const { volume } = fixture;
    const { ino } = volume.tree.mknod(ROOT_INO, Buffer.from("f"), 0o100644, 0, CALLER);
    volume.files.write(ino, 0, Buffer.from("content"), false);
    volume.close();
    const db = new Database(volume.path, fixture.key, { mode: "readwrite" });
    requireFeature(db, "replica");
    const reader = Volume.open(volume.path, fixture.key, { follows: true, readOnly });
    try {
      run(reader, db, ino);
    } finally {
      reader.close();
      db.close();
    }
  } finally {
    fixture.remove();
  }
}

describe("a volume that follows", () => {
  test("shows attributes, names, contents and counts as another connection has committed them", () =>
    following((volume, db, file) => {
      const name = Buffer.from("f");
      expect(volume.follows).toBe(true);
      expect(volume.attributes.getattr(file).mode).toBe(0o100644);
      expect(volume.xattrs.list(file)).toHaveLength(0);
      const { files } = volume.statfs();
      const state = volume.followed;
      expect(volume.followed).toBe(state);
      db.exec(`UPDATE inode SET mode = ${0o100600} WHERE ino = ${file}`);
      db.exec(
        `INSERT INTO xattr (ino, name, value, born) VALUES (${file}, CAST('user.x' AS BLOB), x'01', 1)`,
      );
      const columns = `mode, nlink, uid, gid, rdev, size, block_size, extents, parent, generation, born, atime_ns, mtime_ns,
        ctime_ns, btime_ns, origin`;
      db.exec(`INSERT INTO inode (ino, ${columns}) SELECT 99, ${columns} FROM inode WHERE ino = ${file}`);
      expect(volume.attributes.getattr(file).mode).toBe(0o100600);
      expect(Buffer.from(volume.xattrs.list(file)).toString()).toBe("user.x\0");
      expect(volume.followed).not.toBe(state);
      expect(volume.statfs().files).not.toBe(files);
      expect(volume.tree.lookup(ROOT_INO, name)?.ino).toBe(file);
      db.exec(`UPDATE dirent SET ino = 99 WHERE parent = 1`);
      expect(volume.tree.lookup(ROOT_INO, name)?.ino).toBe(99);
      db.exec(`DELETE FROM dirent WHERE parent = 1; DELETE FROM inode WHERE ino = ${file}`);
      expect(volume.tree.lookup(ROOT_INO, name)).toBeUndefined();
      expect(() => volume.attributes.getattr(file)).toThrow(expect.objectContaining({ code: "ESTALE" }));
    }));

  test("sees nothing of what is not committed, and goes on after a refusal", () =>
    following((volume, db, file) => {
      db.exec(`BEGIN; UPDATE inode SET mode = ${0o100600} WHERE ino = ${file}`);
      expect(volume.attributes.getattr(file).mode).toBe(0o100644);
      expect(() => volume.attributes.getattr(12_345 as Ino)).toThrow(
        expect.objectContaining({ code: "ESTALE" }),
      );
      db.exec("COMMIT");
      expect(volume.attributes.getattr(file).mode).toBe(0o100600);
    }));

  test("is not one that is opened for reading only", () =>
    following((volume) => {
      expect(volume.follows).toBe(false);
      expect(volume.followed).toBe(0);
    }, true));
});
