-- Random work on the fixtures. `call workload.run(seed, transactions)` commits that many transactions, of one to
-- eight changes each; a tenth of them roll back, wholly or to a savepoint. The same seed on the same rows does the same.
-- Several sessions may run it at once: what one of them is refused for that (a deadlock, a row that another inserted)
-- is rolled back to a savepoint and counted; a single session is refused nothing.

create table workload.progress (id integer primary key, done bigint not null, refused bigint not null);
insert into workload.progress values (1, 0, 0);

create function workload.pick(low integer, high integer) returns integer language sql volatile as $$
  select low + floor(random() * (high - low + 1))::integer
$$;

create procedure workload.insert_rows() language plpgsql as $$
declare
  base integer := workload.pick(1000, 100000000);
begin
  insert into odd.orders values (base, 'customer ' || base, base % 100) on conflict do nothing;
  insert into odd.order_lines select base, line, odd.noise(20, base) from generate_series(1, workload.pick(0, 4)) as line
    where exists (select from odd.orders where id = base) on conflict do nothing;
  insert into odd.numbers (id, exact, twice, price) values
    (base, random()::numeric, (array['NaN', '-0', 'Infinity', '0.1'])[workload.pick(1, 4)]::float8, base) on conflict do nothing;
  insert into odd.texts (id, body, fixed) values
    (base, (array['', E'\\N', E'a\tb\nc', 'NULL', 'ß'])[workload.pick(1, 5)], 'f') on conflict do nothing;
  insert into odd.keyless values (base % 5, 'same', '{"x": 1}'), (base % 5, 'same', '{"x": 1}');
  insert into odd.by_range values
    (base, date '2021-06-01' + workload.pick(0, 1500), (array['eu', 'us', 'uk'])[workload.pick(1, 3)], 'new') on conflict do nothing;
  insert into odd.by_hash values (md5(base::text)::uuid, base) on conflict do nothing;
  insert into odd.append_only (line) values ('line ' || base);
  insert into odd.with_identity (a, b) values (base % 1000, 1);
  insert into odd.no_columns default values;
  insert into odd.large (id, note, body) values (base, 'new', odd.noise(workload.pick(1, 12000), base)) on conflict do nothing;
  insert into odd.watched (id, v) values (base, 'watched') on conflict do nothing;
end
$$;

create procedure workload.update_rows() language plpgsql as $$
declare
  chosen integer := workload.pick(0, 6);
begin
  update odd.orders set v = v + 1 where id % 7 = chosen;
  update odd.numbers set exact = exact + 1, single = '-0' where id % 7 = chosen;
  update odd.arrays set words = words || array[null, 'NULL', ''] where id % 7 = chosen and cardinality(words) < 50;
  update odd.documents set doc = '{"a" : 1,   "a":2}' where id % 7 = chosen;
  update odd.keyless set b = 'changed ' || chosen where ctid in (select ctid from odd.keyless where a = chosen limit 1);
  update odd.keyless_floats set t = 'touched' where ctid in (select ctid from odd.keyless_floats limit 1);
  update odd.identity_by_index set d = d + 1, c = null where a = chosen;
  update odd.full_with_key set v = v + 1 where id = chosen;
  update odd."TWINS" set id = id + 1, "Id" = odd.noise(8, chosen);
  update odd.holes set kept = null, later = later + 1 where id = chosen;
  update odd.by_expression set b = b || '.' where a = chosen;
  update odd.child set own = own + 1;
  update odd.secrets set v = v where id = chosen;
end
$$;

-- Values out of line that an update does not touch are not in the WAL: the receiver must keep what it has.
create procedure workload.leave_large_values_unchanged() language plpgsql as $$
declare
  chosen integer := workload.pick(0, 3);
begin
  update odd.large set note = 'touched ' || chosen where id % 4 = chosen;
  update odd.large set body = odd.noise(10000, workload.pick(1, 1000)) where id = chosen;
  update odd.full_with_key set v = -v where id % 4 = chosen;
  update odd.keyless_large set n = n + 10 where n % 4 = chosen;
  update odd.identity_by_index set d = -d where b = 'y';
end
$$;

-- Keys and unique values that change hands within one transaction, and rows that move between partitions.
create procedure workload.swap_keys() language plpgsql as $$
declare
  one integer := workload.pick(1, 10);
  two integer := 1 + one % 10;
  first odd.two_uniques;
  second odd.two_uniques;
begin
  select * into first from odd.two_uniques where id = one;
  select * into second from odd.two_uniques where id = two;
  update odd.two_uniques set slot = -1, name = null where id = one;
  update odd.two_uniques set slot = first.slot, name = first.name where id = two;
  update odd.two_uniques set slot = second.slot, name = second.name where id = one;
  update odd.positions p set place = case p.id when one then q.b else q.a end
    from (select (select place from odd.positions where id = one) as a, (select place from odd.positions where id = two) as b) q
    where p.id in (one, two);
  update odd.two_uniques set id = -id where id in (one, two);
  update odd.two_uniques set id = case -id when one then two else one end where id in (-one, -two);
  update odd.by_range set at = date '2021-06-01' + workload.pick(0, 1500) where id = one;
  update odd.by_range set region = case region when 'eu' then 'us' else 'eu' end where id = two;
  update odd.wide_key set d = d + 1 where a = '';
  update odd.identity_by_index set a = a + 100 where a = (select min(a) from odd.identity_by_index) and b = 'x';
  update odd.key_folded set k = upper(k::text) where k = 'abc';
end
$$;

create procedure workload.delete_rows() language plpgsql as $$
declare
  chosen integer := workload.pick(0, 10);
begin
  delete from odd.orders where id > 1000 and id % 11 = chosen;
  delete from odd.numbers where id > 1000 and id % 11 = chosen;
  delete from odd.large where id > 1000 and id % 11 = chosen;
  delete from odd.keyless where ctid in (select ctid from odd.keyless where a = chosen % 5 limit 1);
  delete from odd.by_hash where v > 1000 and v % 11 = chosen;
  delete from odd.by_range where id > 1000 and id % 11 = chosen;
  delete from odd.texts where id > 1000 and id % 11 = chosen;
  delete from odd.watched where id > 1000 and id % 11 = chosen;
  -- Gone and back in one transaction.
  delete from odd.key_exact where k = 1;
  insert into odd.key_exact values (1.0 + 0.00, 'again ' || chosen);
end
$$;

create procedure workload.truncate_tables() language plpgsql as $$
begin
  case workload.pick(1, 4)
    when 1 then truncate odd.append_only;
    when 2 then truncate odd.orders, odd.order_lines, odd.unvalidated restart identity cascade;
    when 3 then truncate odd.keyless;
    when 4 then truncate odd.by_hash;
  end case;
  insert into odd.append_only (line) values ('after a truncate');
end
$$;

create procedure workload.change_once() language plpgsql as $$
declare
  dice integer := workload.pick(1, 100);
begin
  if dice <= 30 then call workload.insert_rows();
  elsif dice <= 55 then call workload.update_rows();
  elsif dice <= 70 then call workload.leave_large_values_unchanged();
  elsif dice <= 85 then call workload.swap_keys();
  elsif dice <= 98 then call workload.delete_rows();
  else call workload.truncate_tables();
  end if;
end
$$;

create procedure workload.run(seed integer, transactions integer) language plpgsql as $$
declare
  refusals bigint;
begin
  perform setseed((seed % 1000003) / 1000003.0);
  for step in 1 .. transactions loop
    refusals := 0;
    for part in 1 .. workload.pick(1, 8) loop
      begin
        call workload.change_once();
        if workload.pick(1, 20) = 1 then
          raise exception 'a savepoint rolls back' using errcode = 'P0R01';
        end if;
      exception
        when sqlstate 'P0R01' then null;
        when deadlock_detected or unique_violation or foreign_key_violation then refusals := refusals + 1;
      end;
    end loop;
    update workload.progress set done = done + 1, refused = refused + refusals;
    if workload.pick(1, 20) = 1 then rollback; else commit; end if;
  end loop;
end
$$;
